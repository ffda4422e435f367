"""Lines of files as they were uploaded, good or bad: what an error by line speaks of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from common.texts import storable
from training.formats import containers

TEXT_CHARACTERS = 4000  # of one line that are shown


@dataclass(frozen=True)
class SourceLine:
    """A line of a file, or a row of a table written as JSON; `is_cut` where it goes on."""

    number: int
    text: str
    is_cut: bool = False


def read_source(
    file: BinaryIO, container: str, first: int, count: int, *, characters: int = TEXT_CHARACTERS
) -> list[SourceLine]:
    """`count` lines from number `first` on, as errors number them; fewer at the end. Reads the file
    from its beginning, in memory bounded by its longest line."""
    file.seek(0)
    lines = _raw(file, characters) if container == containers.JSONL else _rows(file, container)
    return [
        SourceLine(number, storable(text, limit=characters), len(text) > characters)
        for number, text in islice(lines, max(first, 1) - 1, max(first, 1) - 1 + count)
    ]


def _raw(file: BinaryIO, characters: int) -> Iterator[tuple[int, str]]:
    number = 0
    most = 4 * (characters + 1)  # bytes that as many characters have at most
    while raw := file.readline(containers.BLOCK):
        number += 1
        kept = raw[:most]
        while not raw.endswith(b"\n") and (raw := file.readline(containers.BLOCK)):
            pass
        yield number, kept.decode("utf-8", "replace").rstrip("\r\n")


def _rows(file: BinaryIO, container: str) -> Iterator[tuple[int, str]]:
    for record in containers.read(container, file):
        if record.problem is not None:
            yield record.number, record.problem.message
        else:
            yield record.number, json.dumps(record.row, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    return str(value)
