"""Several processes on one run: each takes its part of every step, and all agree on what follows.

Every rank holds the whole model, reads all data and takes every count-th micro-batch of a step.
Gradients are summed over ranks before the update, so a step of R ranks with A micro-batches each
is the step of one process with R * A. What is decided by a clock, by a signal or by the disk is
decided by the first rank or by any, and told to all: ranks never part ways.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from trainer.errors import RankLost, SpecError
from trainer.launch import own_rank
from trainer.spec import TrainSpec

T = TypeVar("T")

BACKENDS = {"cpu": "gloo", "cuda": "nccl", "npu": "hccl"}
# Gradients are summed this many numbers at a time: 64 MiB in float32.
_AT_ONCE = 16 * 1024 * 1024


@dataclass(frozen=True)
class Ranks:
    """One process's view. Calls that exchange something must be made by all ranks alike."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        return list(items[self.rank :: self.count])

    def rounds(self, items: Sequence[T]) -> Iterator[T | None]:
        """This rank's items, None where others still have one: all ranks go round equally often."""
        for start in range(0, len(items), self.count):
            place = start + self.rank
            yield items[place] if place < len(items) else None

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over ranks."""
        if self.count == 1:
            return
        for part in _parts(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in part])
            self._exchange(flat)
            pieces = flat.split([tensor.numel() for tensor in part])
            for tensor, piece in zip(part, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))

    def totals(self, numbers: Sequence[float]) -> list[float]:
        """The sums over ranks of some plain numbers."""
        if self.count == 1:
            return list(numbers)
        held = torch.tensor(numbers, dtype=torch.float64)
        self._exchange(held)
        return [float(number) for number in held]

    def any(self, flag: bool) -> bool:
        return self.totals([float(flag)])[0] > 0

    def number_of_first(self, number: float) -> float:
        return self.totals([number if self.is_first else 0.0])[0]

    def most(self, number: int) -> int:
        """The largest over ranks."""
        if self.count == 1:
            return number
        each = [float(number) if rank == self.rank else 0.0 for rank in range(self.count)]
        return int(max(self.totals(each)))

    def seed(self, seed: int, step: int) -> None:
        """Random numbers of one step of one rank, whatever came before: only the first rank's
        generators are in a checkpoint."""
        if self.count > 1:
            torch.manual_seed((seed * 1_000_003 + step) * 1_009 + self.rank)

    def from_first(self, value: T) -> T:
        """What the first rank gave."""
        if self.count == 1:
            return value
        held = [value]
        try:
            dist.broadcast_object_list(held, src=0)
        except RuntimeError as error:
            raise RankLost(str(error)) from error
        return held[0]

    def _exchange(self, tensor: torch.Tensor) -> None:
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            raise RankLost(str(error)) from error


ALONE = Ranks()


def join(spec: TrainSpec) -> Ranks:
    """Meet the other ranks. Raises SpecError for a device that has no way to."""
    if spec.ranks == 1:
        return ALONE
    kind = spec.device.partition(":")[0]
    if kind not in BACKENDS:
        raise SpecError(
            "device",
            f"several {kind} devices cannot train one model here",
            remedy=f"use one, or one of {', '.join(BACKENDS)}",
        )
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, "lo")  # all ranks of a run are on one node
    if kind != "cpu":
        torch.get_device_module(kind).set_device(own_rank())
    backend = BACKENDS[kind] if kind == "cpu" else f"cpu:gloo,{kind}:{BACKENDS[kind]}"
    try:
        dist.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        raise RankLost(str(error)) from error
    return Ranks(dist.get_rank(), dist.get_world_size())


def _parts(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    part: list[torch.Tensor] = []
    for tensor in tensors:
        if part and sum(each.numel() for each in part) + tensor.numel() > _AT_ONCE:
            yield part
            part = []
        part.append(tensor)
    if part:
        yield part
