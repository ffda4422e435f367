"""The result's weights: every file of the base again, with what the adapter adds.

Sums are made in float32 and rounded once to the number format that the base's tensor has. No more
than a stretch of rows of one tensor is held at a time, beside the small matrices of one adapter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.merge.adapter import Adapter
from trainer.merge.plan import Change, Part, Plan, make_plan
from trainer.merge.refusals import NotMergeable
from trainer.merge.tensors import DTYPES, Layout, Shard, Stored, read_shard, write_shard

CHUNK_VALUES = 4 << 20  # of a tensor, at a time: 16 MiB of float32
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Merged:
    """What was done: how many tensors are others than the base's, and the config to go with them."""

    changed: int
    config: dict[str, Any]


def merge_weights(
    base: Path,
    adapter: Adapter,
    into: Path,
    *,
    config: dict[str, Any],
    check: Callable[[Path], None],
    tell: Callable[[int, int], None],
) -> Merged:
    """Write the base's files to `into`, those that are there already left alone.

    `check` is called for each file before it is read, `tell` with bytes done and in all. Raises
    NotMergeable, OSError.
    """
    shards = [read_shard(path) for path in sorted(base.glob("*.safetensors"))]
    stored = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    plan = make_plan(stored, adapter, tied=_is_tied(config, stored))
    head = _head(plan, stored)
    writing = _Writing(plan, tell=tell, total=sum(tensor.size_bytes for tensor in stored.values()))
    for shard in shards:
        target = into / shard.path.name
        if target.exists():
            writing.skip(shard)
        else:
            check(shard.path)
            writing.write(shard, target, head=head)
    if plan.unties:
        config = _untied(config)
    if (base / INDEX).is_file():
        size_bytes = stored[plan.embedding].size_bytes if head else 0
        _write_index(base / INDEX, into / INDEX, plan, head=head, size_bytes=size_bytes)
    return Merged(len(plan.changes), config)


def _is_tied(config: dict[str, Any], stored: dict[str, Stored]) -> bool:
    said = [part.get("tie_word_embeddings") for part in _levels(config)]
    if any(isinstance(value, bool) for value in said):
        return True in said
    return not any(name.endswith("lm_head.weight") for name in stored)


def _levels(config: dict[str, Any]) -> list[dict[str, Any]]:
    inner = config.get("text_config")
    return [config, inner] if isinstance(inner, dict) else [config]


def _untied(config: dict[str, Any]) -> dict[str, Any]:
    changed = config | {"tie_word_embeddings": False}
    if isinstance(config.get("text_config"), dict):
        changed["text_config"] = config["text_config"] | {"tie_word_embeddings": False}
    return changed


def _head(plan: Plan, stored: dict[str, Stored]) -> str:
    """The name of a head that the base's files do not have and the result's do; mostly none."""
    return next((name for name in plan.changes if name not in stored), "")


class _Writing:
    """The files, one after the other."""

    def __init__(self, plan: Plan, *, tell: Callable[[int, int], None], total: int) -> None:
        self._plan, self._tell, self._total = plan, tell, total
        self._done = 0

    def skip(self, shard: Shard) -> None:
        self._advance(sum(tensor.size_bytes for tensor in shard.tensors.values()))

    def write(self, shard: Shard, target: Path, *, head: str) -> None:
        layout: dict[str, Layout | Stored] = {}
        for name, tensor in shard.tensors.items():
            layout[name] = tensor
            if head and name == self._plan.embedding:
                layout[head] = Layout(tensor.dtype, tensor.shape)

        def fill(name: str) -> Iterator[bytes]:
            change = self._plan.changes.get(name)
            chunks = (
                shard.tensors[name].chunks()
                if change is None
                else _changed(name, change, dtype=layout[name].dtype)
            )
            for chunk in chunks:
                yield chunk
                if name != head:
                    self._advance(len(chunk))

        write_shard(target, layout, fill, metadata=shard.metadata)

    def _advance(self, count: int) -> None:
        self._done += count
        self._tell(self._done, self._total)


def _changed(name: str, change: Change, *, dtype: str) -> Iterator[bytes]:
    source = change.source
    downs = {part.module.name: part.module.down.read().float() for part in change.parts}
    width = max(1, source.row_bytes // max(1, torch.empty(0, dtype=DTYPES[source.dtype]).itemsize))
    step = max(1, CHUNK_VALUES // width)
    for first in range(0, source.rows, step):
        last = min(first + step, source.rows)
        rows = source.read(first, last).float()
        for part in change.parts:
            _add(rows, part, downs[part.module.name], first=first, last=last)
        rounded = rows.to(DTYPES[dtype])
        if not bool(rounded.isfinite().all()):
            raise NotMergeable(
                f"{name} would hold values that are no finite numbers.",
                remedy="Train again: the adapter has diverged, or its numbers are too large.",
            )
        yield rounded.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _add(rows: torch.Tensor, part: Part, down: torch.Tensor, *, first: int, last: int) -> None:
    """In place: what the module adds to those of its rows that lie between `first` and `last`."""
    start, end = max(first, part.first), min(last, part.first + part.count)
    if start >= end:
        return
    module, mine = part.module, rows[start - first : end - first]
    own = slice(start - part.first + part.own_first, end - part.first + part.own_first)
    if module.is_embedding:
        mine.addmm_(down[:, own].T, module.up.read().float().T, alpha=module.scale)
        return
    mine.addmm_(module.up.read(own.start, own.stop).float(), down, alpha=module.scale)
    if module.magnitude is not None:
        wanted = module.magnitude.read(own.start, own.stop).float()
        mine.mul_((wanted / torch.linalg.vector_norm(mine, dim=1))[:, None])


def _write_index(source: Path, target: Path, plan: Plan, *, head: str, size_bytes: int) -> None:
    index = json.loads(source.read_text(encoding="utf-8"))
    if head:
        index["weight_map"][head] = index["weight_map"][plan.embedding]
        total = index.get("metadata", {}).get("total_size")
        if isinstance(total, int):
            index["metadata"]["total_size"] = total + size_bytes
    target.write_text(json.dumps(index, indent=2), encoding="utf-8")
