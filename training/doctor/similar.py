"""Lines that are the same or nearly so: within a split, between splits, and in evaluation sets.

Sameness goes by 64-bit hashes. Likeness goes by MinHash (the rensa library): the share of triples of
words that two lines have in common, estimated from 32 minima of 16 bits each. Four minima make a band
of 64 bits; two lines that share one of the eight bands are compared in full. At 0.8 in common 98 of
100 pairs share a band, at 0.5 four in ten do and are then dropped by the comparison.

Hashes are held in memory, 8 bytes a line each; the 64 bytes of minima lie in a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rensa import RMinHash

from training.doctor.examples import Example
from training.doctor.findings import KEPT, Finding, Ledger

MINIMA = 32
BANDS = 8
SEED = 42
ALIKE = 0.8
LEAST_TRIPLES = 6  # shorter texts are alike by chance
MOST_WORDS = 4000  # of one line that are compared
BLOCK = 100_000  # pairs compared at once
# A word of letters or digits; Chinese, Japanese and Korean characters one by one.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)

U64 = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass
class Sketches:
    """Of lines in their order: hashes, and for those long enough their minima."""

    wholes: list[int] = field(default_factory=list)
    questions: list[int] = field(default_factory=list)
    triples: list[list[str]] = field(default_factory=list)

    def add(self, example: Example) -> None:
        self.wholes.append(example.whole_hash())
        self.questions.append(example.question_hash())
        said = [text for role, text in example.turns if role != "system"]
        words = WORD.findall("\n".join(said).lower())[:MOST_WORDS]
        self.triples.append(
            [f"{a} {b} {c}" for a, b, c in zip(words, words[1:], words[2:], strict=False)]
        )

    def packed(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Hashes of wholes and questions, whether each is long enough, and bands: as numpy has them."""
        rows = RMinHash.digests_from_token_sets(self.triples, MINIMA, SEED)
        minima = np.array(rows, dtype=np.uint32).reshape(-1, MINIMA).astype(np.uint16)
        is_long = np.array([len(one) >= LEAST_TRIPLES for one in self.triples], dtype=np.bool_)
        return (
            np.array(self.wholes, dtype=np.uint64).tobytes(),
            np.array(self.questions, dtype=np.uint64).tobytes(),
            is_long.tobytes(),
            minima.tobytes(),
        )


@dataclass(frozen=True)
class Part:
    """Lines that belong together: a split, or a set that evaluations ask (`is_reference`).
    `is_learnt` says that runs are meant to learn from it."""

    name: str
    is_reference: bool = False
    is_learnt: bool = False


@dataclass
class Shared:
    """How many different examples two parts have in common."""

    left: str
    right: str
    examples: int


class Comparison:
    """All lines of all parts under a running number: references first, then what is learnt from."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "minima.bin"
        self._file = self._path.open("wb")
        self._packed: list[tuple[bytes, bytes, bytes]] = []
        self._parts: list[Part] = []
        self._starts: list[int] = []
        self._count = 0

    def begin(self, part: Part) -> None:
        """What is added from now on belongs to this part."""
        self._parts.append(part)
        self._starts.append(self._count)

    def add(self, packed: tuple[bytes, bytes, bytes, bytes]) -> None:
        wholes, questions, is_long, minima = packed
        self._packed.append((wholes, questions, is_long))
        self._file.write(minima)
        self._count += len(is_long)

    def judge(self, ledger: Ledger, *, kind: str) -> list[Shared]:
        """Compare everything with everything before it and tell the lines; what parts share."""
        self._file.close()
        if not self._count:
            return []
        wholes, questions, long = (b"".join(column) for column in zip(*self._packed, strict=True))
        self._packed = []
        lines = _Lines(
            self._parts,
            self._starts,
            self._path,
            np.frombuffer(wholes, dtype=np.uint64),
            np.frombuffer(questions, dtype=np.uint64),
            np.frombuffer(long, dtype=np.bool_),
        )
        shared = lines.among_splits(ledger, kind)
        if any(part.is_reference for part in self._parts):
            shared += lines.against_references(ledger)
        return shared


class _Lines:
    def __init__(
        self,
        parts: Sequence[Part],
        starts: Sequence[int],
        path: Path,
        wholes: U64,
        questions: U64,
        is_long: Bools,
    ) -> None:
        self.parts, self.starts = parts, starts
        self.wholes, self.questions, self.is_long = wholes, questions, is_long
        count = len(wholes)
        self.owners = np.zeros(count, dtype=np.int16)
        for number, start in enumerate(starts):
            self.owners[start:] = number
        self.minima = np.memmap(path, dtype=np.uint16, mode="r", shape=(count, MINIMA))
        self.bands = np.memmap(path, dtype=np.uint64, mode="r", shape=(count, BANDS))

    def among_splits(self, ledger: Ledger, kind: str) -> list[Shared]:
        lines = self._of(lambda part: not part.is_reference)
        again, leaked = first_partners(self.wholes, self.owners, lines)
        self._tell(ledger, "duplicate", again)
        self._tell(ledger, "leak", leaked)
        if kind == "chat":
            same, across = first_partners(self.questions, self.owners, lines)
            differs = (same >= 0) & (self.wholes != self.wholes[same])
            self._tell(ledger, "contradiction", np.where(differs, same, -1))
            self._tell(ledger, "leak_question", np.where(leaked >= 0, -1, across))
        near, near_across, score = self._near(lines)
        self._tell(ledger, "near_duplicate", np.where(again >= 0, -1, near), score)
        self._tell(ledger, "leak_near", np.where(leaked >= 0, -1, near_across))
        return self._shared(leaked)

    def against_references(self, ledger: Ledger) -> list[Shared]:
        lines = self._of(lambda part: part.is_reference or part.is_learnt)
        is_learnt = np.array([part.is_learnt for part in self.parts])[self.owners]
        _, leaked = first_partners(self.wholes, self.owners, lines)
        leaked = np.where(is_learnt, leaked, -1)
        _, near, _ = self._near(lines)
        near = np.where(is_learnt & (leaked < 0), near, -1)
        self._tell(ledger, "evaluation_leak", leaked)
        self._tell(ledger, "evaluation_leak_near", near)
        return self._shared(leaked)

    def _of(self, wanted: Callable[[Part], bool]) -> Ints:
        return np.flatnonzero(np.array([wanted(part) for part in self.parts])[self.owners])

    def _near(self, lines: Ints) -> tuple[Ints, Ints, Any]:
        """By line: one like it before it in its own part, one in a part before, how like the first."""
        count = len(self.wholes)
        own = np.full(count, -1, dtype=np.int64)
        across = np.full(count, -1, dtype=np.int64)
        score = np.zeros(count, dtype=np.float32)
        members = lines[self.is_long[lines]]
        for band in range(BANDS):
            keys = np.zeros(count, dtype=np.uint64)
            keys[members] = self.bands[members, band]
            found = first_partners(keys, self.owners, members)
            for target, partner in zip((own, across), found, strict=True):
                open_ones = np.flatnonzero((partner >= 0) & (target < 0))
                differ = self.wholes[open_ones] != self.wholes[partner[open_ones]]
                self._compare(open_ones[differ], partner, target, score)
        return own, across, score

    def _compare(self, lines: Ints, partner: Ints, target: Ints, score: Any) -> None:
        for begin in range(0, len(lines), BLOCK):
            some = lines[begin : begin + BLOCK]
            others = partner[some]
            same = (self.minima[some] == self.minima[others]).mean(axis=1)
            good = same >= ALIKE
            target[some[good]] = others[good]
            score[some[good]] = same[good]

    def _tell(self, ledger: Ledger, kind: str, partner: Ints, scores: Any = None) -> None:
        lines = np.flatnonzero(partner >= 0)
        if not len(lines):
            return
        ledger.counts[kind] += len(lines)
        ledger.kept[kind] = [
            Finding(
                kind,
                *self._place(line),
                "",
                "",
                *self._place(int(partner[line])),
                None if scores is None else round(float(scores[line]), 3),
            )
            for line in lines[:KEPT].tolist()
        ]

    def _place(self, line: int) -> tuple[str, int]:
        owner = int(self.owners[line])
        return self.parts[owner].name, line - self.starts[owner] + 1

    def _shared(self, leaked: Ints) -> list[Shared]:
        lines = np.flatnonzero(leaked >= 0)
        pairs: dict[tuple[int, int], set[int]] = {}
        for line in lines.tolist():
            pair = int(self.owners[leaked[line]]), int(self.owners[line])
            pairs.setdefault(pair, set()).add(int(self.wholes[line]))
        return [
            Shared(self.parts[left].name, self.parts[right].name, len(examples))
            for (left, right), examples in pairs.items()
        ]


def first_partners(keys: U64, owners: Any, lines: Ints) -> tuple[Ints, Ints]:
    """By line, -1 for none: the first line with its key in its own part if that is before it, and the
    first with its key at all if that is in a part before. Only `lines` are looked at."""
    own = np.full(len(keys), -1, dtype=np.int64)
    across = np.full(len(keys), -1, dtype=np.int64)
    if not len(lines):
        return own, across
    ordered = lines[np.argsort(keys[lines], kind="stable")]
    is_new = np.ones(len(ordered), dtype=np.bool_)
    is_new[1:] = keys[ordered[1:]] != keys[ordered[:-1]]
    is_new_owner = is_new.copy()
    is_new_owner[1:] |= owners[ordered[1:]] != owners[ordered[:-1]]
    place = np.arange(len(ordered))
    first = ordered[np.maximum.accumulate(np.where(is_new, place, 0))]
    first_own = ordered[np.maximum.accumulate(np.where(is_new_owner, place, 0))]
    has_own, has_other = first_own != ordered, owners[first] != owners[ordered]
    own[ordered[has_own]] = first_own[has_own]
    across[ordered[has_other]] = first[has_other]
    return own, across
