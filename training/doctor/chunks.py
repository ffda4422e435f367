"""A file of canonical lines in pieces of whole lines, each looked at by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from training.doctor import examples, privacy, turns
from training.doctor.findings import Ledger
from training.doctor.labels import Balance
from training.doctor.similar import Sketches
from training.doctor.turns import Figures

CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Chunk:
    """`lines` whole lines from `offset` on; the first has the number `first`."""

    split: str
    path: str
    offset: int
    size_bytes: int
    first: int
    lines: int
    is_reference: bool = False  # compared with, and not looked at otherwise


@dataclass
class Look:
    """What one piece holds."""

    lines: int
    ledger: Ledger = field(default_factory=Ledger)
    figures: Figures = field(default_factory=Figures)
    balance: Balance = field(default_factory=Balance)
    packed: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b"")


def cut(split: str, path: Path, *, is_reference: bool = False) -> Iterator[Chunk]:
    """The pieces of a file, in order; about a mebibyte each, or one longer line."""
    offset, first = 0, 1
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            block += file.readline()
            lines = block.count(b"\n") + (not block.endswith(b"\n"))
            yield Chunk(split, str(path), offset, len(block), first, lines, is_reference)
            offset += len(block)
            first += lines


def raw_lines(chunk: Chunk) -> list[bytes]:
    with Path(chunk.path).open("rb") as file:
        file.seek(chunk.offset)
        lines = file.read(chunk.size_bytes).split(b"\n")
    return lines if lines[-1] else lines[:-1]


def look(chunk: Chunk) -> Look:
    """Every check that needs one line at a time."""
    sketches, seen = Sketches(), Look(chunk.lines)
    for number, raw in enumerate(raw_lines(chunk), start=chunk.first):
        if chunk.is_reference and not raw.strip():
            continue  # sets from before canonical lines may have blank ones
        row: dict[str, Any] = orjson.loads(raw)
        example = examples.read(chunk.split, number, row)
        sketches.add(example)
        if chunk.is_reference:
            continue
        turns.count(seen.figures, example, row)
        turns.look(seen.ledger, example)
        privacy.look(seen.ledger, example)
        seen.balance.look(example)
    seen.packed = sketches.packed()
    return seen
