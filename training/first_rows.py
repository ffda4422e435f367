"""What a file is and what its columns hold, from its beginning alone: asked before it is uploaded.

Of a Parquet file the end is needed as well: its columns are told there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

from common.texts import storable
from training import formats
from training.formats import columns, containers

ROWS = 3
COLUMNS = 200
VALUE_CHARACTERS = 160


@dataclass(frozen=True)
class ColumnSeen:
    """`values` are those of the first rows, written short; "" where a row has none."""

    name: str
    values: list[str]


@dataclass(frozen=True)
class FirstRows:
    """`format` is what the rows are as they stand, "" where no format has these keys; `mapping`
    the columns by field that usual names suggest. `problem` is set where nothing could be read."""

    container: str
    format: str = ""
    kind: str = ""
    columns: list[ColumnSeen] = field(default_factory=list)
    mapping: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def is_table(self) -> bool:
        return self.container in (containers.CSV, containers.PARQUET)

    @property
    def wants_mapping(self) -> bool:
        """Tables may always be mapped; rows of JSON only where no format has their keys."""
        return bool(self.columns) and (self.is_table or not self.format)


def look(file: BinaryIO, file_name: str, *, container: str = "") -> FirstRows:
    """Never raises for what is in the file."""
    file.seek(0)
    container = container or containers.sniff(file, file_name)
    names = containers.columns(container, file)[:COLUMNS]
    rows: list[dict[str, Any]] = []
    problem = ""
    for record in islice(containers.read(container, file), ROWS):
        if record.problem is not None:
            problem = record.problem.message
            break
        if isinstance(record.row, dict):
            rows.append(record.row)
    if not names:
        return FirstRows(container, problem=problem)
    seen = [ColumnSeen(name, [_short(row.get(name)) for row in rows]) for name in names]
    as_they_are = formats.detect(dict.fromkeys(names))
    mapping = columns.guess(names)
    found = as_they_are or formats.detect(dict.fromkeys(mapping))
    kind = formats.BY_NAME[found].KIND if found else ""
    return FirstRows(container, as_they_are, kind, seen, mapping)


@contextmanager
def from_ends(head: bytes, tail: bytes, size: int) -> Iterator[BinaryIO]:
    """A file of which only the ends are known; between them lie zeros, which take no room."""
    with tempfile.TemporaryFile() as file:
        file.write(head)
        if tail:
            file.seek(max(size - len(tail), 0))
            file.write(tail)
        file.seek(0)
        yield file


def _short(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return storable(" ".join(value.split()), limit=VALUE_CHARACTERS)


def problem_with(mapping: Mapping[str, str], seen: FirstRows) -> tuple[str, str] | None:
    """What is wrong with a mapping of these columns and what to do; None if nothing is."""
    return columns.problem_with(mapping, [column.name for column in seen.columns])
