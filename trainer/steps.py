"""The gradients of one step, from micro-batches as small as memory asks for.

A step's loss is a sum over its units by the whole step's divisor, however they are cut into parts:
when memory runs out each is cut in two and the step is done again, with the same random numbers.
Its loss is the same within rounding (with dropout of the same distribution). Of several ranks each
cuts its own micro-batches, as its own memory asks for.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from trainer import checkpoint
from trainer.batches import StepPlan
from trainer.data import Example, TokenSet
from trainer.errors import FailureReason, TrainingFailure, explain
from trainer.model import Loaded
from trainer.objectives import Objective, Sums, Tally, Work
from trainer.optimizer import MasterAdamW
from trainer.progress import Kind, ProgressWriter
from trainer.pulse import Pulse
from trainer.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gradients:
    """What a step's examples ask for; the gradients themselves wait in the optimizer."""

    loss: float
    tokens: int  # of the examples, without padding
    sums: Sums  # what else the objective tells of them


class Steps:
    """Computes steps of a plan on a loaded model."""

    def __init__(
        self,
        *,
        objective: Objective,
        loaded: Loaded,
        optimizer: MasterAdamW,
        plan: StepPlan,
        train: TokenSet,
        device: torch.device,
        share: bool,
        splits: int,
        seed: int,
        progress: ProgressWriter,
        pulse: Pulse,
        stopping: Callable[[], bool],
        ranks: Ranks = ALONE,
    ) -> None:
        self.splits = splits  # parts of each micro-batch
        self._objective, self._loaded, self._optimizer = objective, loaded, optimizer
        self._plan, self._train = plan, train
        self._device, self._share = device, share
        self._progress, self._pulse, self._stopping = progress, pulse, stopping
        self._ranks, self._seed = ranks, seed

    def gradients(self, number: int) -> Gradients | None:
        """Of step `number`, counted from 0, and of all ranks. None when asked to stop in the
        middle, which ranks are not: then nothing has changed. Raises
        TrainingFailure(out_of_memory) if not even single examples fit."""
        found = self._own_gradients(number)
        if found is None or self._ranks.count == 1:
            return found
        self._ranks.add_up(self._optimizer.gradients())
        loss, sums = agree(self._ranks, found.loss, found.sums, self._objective.told)
        return Gradients(loss, found.tokens, sums)

    def _own_gradients(self, number: int) -> Gradients | None:
        self._ranks.seed(self._seed, number)
        random = checkpoint.torch_random(self._device)
        while True:
            shortage = None
            try:
                found = self._accumulate(number)
            except (MemoryError, RuntimeError) as error:
                shortage = explain(error)
                if shortage.reason != FailureReason.OUT_OF_MEMORY:
                    raise
            if shortage is None and found is not None:
                return found
            self._optimizer.discard()
            checkpoint.set_torch_random(random, device=self._device)
            if shortage is None:
                return None
            # Only here, past the handler: the error's traceback has held all activations.
            self._split(number, shortage)

    def _accumulate(self, number: int) -> Gradients | None:
        works = [
            works_of(self._objective, self._train, units, splits=self.splits, share=self._share)
            for units in self._plan.step(number)
        ]
        everything = [work for parts in works for work in parts]
        whole = sum(work.weight for work in everything)
        loss, tally, has_begun = 0.0, Tally(), False
        for parts in self._ranks.share(works):
            for work in joined(self._objective, self._loaded, parts, self._device):
                if has_begun and self._stopping():
                    return None
                has_begun = True
                part_loss, told = self._objective.loss(self._loaded, work, divisor=whole)
                part_loss.backward()
                self._optimizer.collect()
                loss += part_loss.item()
                tally.add(told)
                self._pulse.beat(number)
        return Gradients(loss, sum(work.tokens for work in everything), tally.sums())

    def _split(self, number: int, shortage: TrainingFailure) -> None:
        largest = max(map(len, self._plan.step(number)))
        if self.splits >= largest:
            raise TrainingFailure(
                FailureReason.OUT_OF_MEMORY,
                f"step {number + 1}: not even one example at a time fits: {shortage.message}",
                remedy="shorten max_length_tokens, train an adapter, or take a larger accelerator",
            )
        self.splits *= 2
        gc.collect()
        if self._device.type != "cpu":
            torch.get_device_module(self._device).empty_cache()
        message = (
            f"Memory ran out at step {number + 1}. From now on each micro-batch is cut into "
            f"{self.splits}; steps stay as large as they were, and losses the same."
        )
        logger.warning("%s (%s)", message, shortage.message)
        self._progress.write(
            Kind.WARNING,
            reason="out_of_memory",
            message=message,
            step=number,
            micro_batch_splits=self.splits,
        )


def agree(ranks: Ranks, loss: float, sums: Sums, names: Sequence[str]) -> tuple[float, Sums]:
    """The loss and the sums of all ranks together."""
    if ranks.count == 1:
        return loss, sums
    own = [float(number) for name in names for number in sums.get(name, (0.0, 0.0))]
    whole, *rest = ranks.totals([loss, *own])
    pairs = zip(rest[0::2], rest[1::2], strict=True)
    return whole, dict(zip(names, pairs, strict=True))


def works_of(
    objective: Objective, data: TokenSet, units: Sequence[int], *, splits: int, share: bool
) -> list[Work]:
    """A micro-batch in as many parts as memory asks for."""
    return [objective.make(data, part, share=share) for part in cut(units, splits)]


def joined(
    objective: Objective, loaded: Loaded, parts: Sequence[Work], device: torch.device
) -> Sequence[Work]:
    """The parts on their device, ready for their losses."""
    there = [part.to(device) for part in parts]
    return objective.joined(loaded, there) if len(there) > 1 else there


def cut(micro_batch: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Even parts of a micro-batch in order, none of them empty."""
    size = -(-len(micro_batch) // parts)
    return [micro_batch[start : start + size] for start in range(0, len(micro_batch), size)]


def lines_of(examples: list[Example]) -> list[int]:
    """The lines that examples came from, each once, in order."""
    return sorted({example.line for example in examples if example.line})
