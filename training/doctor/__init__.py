"""The dataset doctor: everything about canonical lines that is worth knowing before money is spent.

A check a module. `examine` reads every line once, in pieces that several processes share, and then
compares what they told; memory grows by some 30 bytes a line.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.doctor import chunks, similar
from training.doctor.chunks import Chunk, Look
from training.doctor.findings import KINDS, Finding, Ledger
from training.doctor.labels import Balance
from training.doctor.similar import Part
from training.doctor.turns import Figures

TRAIN = "train"
TELL_EVERY = 20_000


@dataclass
class Split:
    """One split's figures, and where its lines begin: [first line, byte] of every piece."""

    figures: Figures = field(default_factory=Figures)
    balance: Balance = field(default_factory=Balance)
    index: list[list[int]] = field(default_factory=list)
    size_bytes: int = 0


@dataclass
class Diagnosis:
    """What the doctor found."""

    splits: dict[str, Split]
    ledger: Ledger
    leakage: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """`splits`, `leakage`, `labels`, and `findings`: how many there are of each kind."""
        return {
            "splits": {
                name: asdict(split.figures) | {"size_bytes": split.size_bytes}
                for name, split in self.splits.items()
            },
            "leakage": self.leakage,
            "labels": {name: split.balance.as_json() for name, split in self.splits.items()},
            "findings": {
                name: self.ledger.counts[name] for name in KINDS if self.ledger.counts[name]
            },
        }

    def findings(self) -> list[Finding]:
        return list(self.ledger.all())


def examine(
    files: Mapping[str, Path],
    *,
    kind: str,
    references: Mapping[str, Path] | None = None,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Diagnosis:
    """Look at the canonical lines of every split, and at those of `references`, sets that evaluations
    ask, only to find them again. With `workers` that many processes share the work."""
    order = sorted(files, key=lambda name: (name != TRAIN, name))
    learnt = [TRAIN] if TRAIN in files else order
    parts = [
        *((Part(name, is_reference=True), path) for name, path in (references or {}).items()),
        *((Part(name, is_learnt=name in learnt), files[name]) for name in order),
    ]
    splits = {name: Split() for name in order}
    ledger = Ledger()
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        comparison = similar.Comparison(Path(folder))
        begun: Part | None = None
        done = told = 0
        for part, chunk, seen in _looks(parts, workers):
            if part != begun:
                comparison.begin(part)
                begun = part
            comparison.add(seen.packed)
            if not part.is_reference:
                split = splits[part.name]
                split.index.append([chunk.first, chunk.offset])
                split.size_bytes += chunk.size_bytes
                split.figures.merge(seen.figures)
                split.balance.merge(seen.balance)
                ledger.merge(seen.ledger)
            done += seen.lines
            if progress is not None and done - told >= TELL_EVERY:
                told = done
                progress(done)
        shared = comparison.judge(ledger, kind=kind)
    for name, split in splits.items():
        split.balance.judge(ledger, name)
    leakage = [{"splits": [one.left, one.right], "examples": one.examples} for one in shared]
    return Diagnosis(splits, ledger, leakage)


def _looks(parts: Iterable[tuple[Part, Path]], workers: int) -> Iterator[tuple[Part, Chunk, Look]]:
    """Every piece and what is in it, in order."""
    pieces = (
        (part, chunk)
        for part, path in parts
        for chunk in chunks.cut(part.name, path, is_reference=part.is_reference)
    )
    if workers < 2:
        for part, chunk in pieces:
            yield part, chunk, chunks.look(chunk)
        return
    context = multiprocessing.get_context("fork")  # this program has no other threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[tuple[Part, Chunk, Future[Look]]] = deque()
        for part, chunk in pieces:
            waiting.append((part, chunk, pool.submit(chunks.look, chunk)))
            if len(waiting) > 3 * workers:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)


def _next(waiting: deque[tuple[Part, Chunk, Future[Look]]]) -> tuple[Part, Chunk, Look]:
    part, chunk, future = waiting.popleft()
    return part, chunk, future.result()
