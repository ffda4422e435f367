"""How rows lie in a file: JSON lines, one JSON list, CSV with a heading, Parquet.

Every reader yields (number, row, raw bytes) in the file's order, in memory bounded by the longest row;
a row that cannot be read comes as a Problem, and reading goes on where that is possible.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, TextIO

import orjson

from common.texts import Text
from training.formats.problems import Problem

MAX_LINE_BYTES = 16 * 2**20  # some four million tokens: beyond every context
BLOCK = 2**20
JSONL, JSON_LIST, CSV, PARQUET = "jsonl", "json", "csv", "parquet"
NAMES = (JSONL, JSON_LIST, CSV, PARQUET)
PARQUET_MAGIC = b"PAR1"
BATCH_ROWS = 256
BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Record:
    """A row, or what is wrong with it. `raw` is its bytes where the file is JSON lines."""

    number: int  # from 1: the line, the element of the list, or the row under the heading
    row: Any = None
    problem: Problem | None = None
    raw: bytes = b""


def sniff(file: BinaryIO, file_name: str = "") -> str:
    """Which container it is, by its first bytes, and for CSV by its name; the position is kept."""
    at = file.tell()
    head = file.read(4096)
    file.seek(at)
    if head.startswith(PARQUET_MAGIC):
        return PARQUET
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"{"):
        return JSONL
    if text.startswith(b"[") and text[1:].lstrip()[:1] in (b"{", b"]", b""):
        return JSON_LIST
    if file_name.lower().endswith((".csv", ".tsv")):
        return CSV
    if file_name.lower().endswith(".parquet"):
        return PARQUET
    return JSONL


def read(container: str, file: BinaryIO) -> Iterator[Record]:
    """The rows from the file's present position on."""
    return READERS[container](file)


def columns(container: str, file: BinaryIO) -> list[str]:
    """The names that the heading has, or the first row where there is none; none of a file that
    cannot be read. The position is kept."""
    at = file.tell()
    try:
        if container == CSV:
            return _csv_columns(file)
        if container == PARQUET:
            return _parquet_columns(file)
        for record in read(container, file):
            return list(record.row) if isinstance(record.row, dict) else []
        return []
    finally:
        file.seek(at)


def read_lines(file: BinaryIO) -> Iterator[Record]:
    """JSON lines; blank ones are passed over, and the rest of one that is too long."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if not raw.strip():
            continue
        if len(raw) > MAX_LINE_BYTES:
            while not raw.endswith(b"\n") and (raw := file.readline(BLOCK)):
                pass
            yield Record(number, problem=_too_long())
            continue
        try:
            yield Record(number, orjson.loads(raw), raw=raw)
        except orjson.JSONDecodeError:
            yield _slowly(number, raw)


def _slowly(number: int, raw: bytes) -> Record:
    """What the quick reader refused, read by the one that says more and takes more."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        message = Text("Byte %(number)s of the line is not UTF-8.", number=error.start + 1)
        problem = Problem("not_utf8", "", message, Text("Save the file with UTF-8 encoding."))
        return Record(number, problem=problem)
    if text.startswith("\ufeff"):
        problem = Problem(
            "byte_order_mark",
            "",
            Text("The line starts with a byte order mark."),
            Text("Save the file as UTF-8 without a byte order mark."),
        )
        return Record(number, problem=problem)
    try:
        return Record(number, json.loads(text), raw=raw)
    except (ValueError, RecursionError) as error:
        problem = Problem(
            "not_json",
            "",
            Text("This is not JSON: %(error)s", error=error),
            Text("Write one JSON object a line."),
        )
        return Record(number, problem=problem)


def _too_long() -> Problem:
    return Problem(
        "line_too_long",
        "",
        Text("The line is longer than %(most)s MiB.", most=f"{MAX_LINE_BYTES / 2**20:g}"),
        Text("Split the conversation into several lines."),
    )


def read_list(file: BinaryIO) -> Iterator[Record]:
    """The elements of one JSON list, decoded one after the other."""
    text = io.TextIOWrapper(_Open(file), encoding="utf-8-sig")  # type: ignore[type-var]
    number = 0
    try:
        for number, row in enumerate(_elements(text), start=1):
            yield Record(number, row)
    except UnicodeDecodeError:
        yield Record(number + 1, problem=_not_utf8())
    except _TooLong:
        yield Record(number + 1, problem=_too_long())
    except (ValueError, RecursionError) as error:
        problem = Problem(
            "not_json",
            "",
            Text("The list breaks off or is not JSON here: %(error)s", error=error),
            Text("Write one JSON list of objects, or one object a line."),
        )
        yield Record(number + 1, problem=problem)
    finally:
        text.detach()


class _TooLong(Exception):
    """An element of the list is longer than a line may be."""


def _elements(text: TextIO) -> Iterator[Any]:
    """Raises ValueError where the list breaks off."""
    decode = json.JSONDecoder().raw_decode
    buffer, at, is_begun = "", 0, False
    while True:
        more = text.read(BLOCK)
        buffer, at = buffer[at:] + more, 0
        while True:
            at = BETWEEN.match(buffer, at).end()  # type: ignore[union-attr] # it matches nothing too
            if not is_begun and buffer[at : at + 1] == "[":
                at, is_begun = at + 1, True
                continue
            if buffer[at : at + 1] == "]":
                return
            try:
                row, end = decode(buffer, at)
            except (ValueError, RecursionError):
                if not more:
                    raise
                break
            if end == len(buffer) and more:
                break  # a number or a word could go on
            yield row
            at = end
        if len(buffer) - at > MAX_LINE_BYTES:
            raise _TooLong


def _not_utf8() -> Problem:
    return Problem(
        "not_utf8",
        "",
        Text("The file is not UTF-8 here."),
        Text("Save the file with UTF-8 encoding."),
    )


def read_csv(file: BinaryIO) -> Iterator[Record]:
    """Rows under a heading; commas, semicolons or tabs, as the heading has them."""
    text = io.TextIOWrapper(_Open(file), encoding="utf-8-sig", newline="")  # type: ignore[type-var]
    number = 0
    try:
        csv.field_size_limit(MAX_LINE_BYTES)
        heading, rows = _heading(text)
        if not heading:
            return
        for number, values in enumerate(rows, start=1):
            if not any(values):
                continue
            if len(values) != len(heading):
                problem = Problem(
                    "columns_uneven",
                    "",
                    Text(
                        "The row has %(values)s values under %(heading)s columns.",
                        values=len(values),
                        heading=len(heading),
                    ),
                    Text("Put values with commas or line breaks into double quotes."),
                )
                yield Record(number, problem=problem)
                continue
            row = {name: value for name, value in zip(heading, values, strict=True) if value}
            yield Record(number, row)
    except UnicodeDecodeError:
        yield Record(number + 1, problem=_not_utf8())
    except csv.Error as error:
        problem = Problem(
            "not_csv",
            "",
            Text("This is not CSV: %(error)s", error=error),
            Text("Quote long or odd values."),
        )
        yield Record(number + 1, problem=problem)
    finally:
        text.detach()


def _csv_columns(file: BinaryIO) -> list[str]:
    text = io.TextIOWrapper(_Open(file), encoding="utf-8-sig", newline="")  # type: ignore[type-var]
    try:
        return [name for name in _heading(text)[0] if name]
    except (UnicodeDecodeError, csv.Error):
        return []
    finally:
        text.detach()


def _heading(text: TextIO) -> tuple[list[str], Iterator[list[str]]]:
    first = text.readline()
    counts = {mark: first.count(mark) for mark in (",", ";", "\t")}
    delimiter = max(counts, key=lambda mark: counts[mark])
    rows = csv.reader(chain([first], text), delimiter=delimiter, strict=True)
    heading = next(rows, [])
    return [name.strip() for name in heading], rows


def read_parquet(file: BinaryIO) -> Iterator[Record]:
    """Rows of a Parquet file, a few hundred in memory at once."""
    from pyarrow import ArrowException, parquet

    number = 0
    try:
        table = parquet.ParquetFile(file)
        for batch in table.iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield Record(number, _without_nulls(row))
    except (ArrowException, OSError, ValueError) as error:
        message = Text(
            "This is no Parquet file that can be read: %(error)s", error=str(error)[:200]
        )
        problem = Problem("not_parquet", "", message, Text("Write the file again, whole."))
        yield Record(number + 1, problem=problem)


def _parquet_columns(file: BinaryIO) -> list[str]:
    from pyarrow import ArrowException, parquet

    try:
        return list(parquet.ParquetFile(file).schema_arrow.names)
    except (ArrowException, OSError, ValueError):
        return []


def _without_nulls(value: Any) -> Any:
    """Structs hold a null for every key that a row lacks; leave those out, at every depth."""
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


class _Open(io.RawIOBase):
    """A file that text wrappers may close without closing it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


READERS: dict[str, Callable[[BinaryIO], Iterator[Record]]] = {
    JSONL: read_lines,
    JSON_LIST: read_list,
    CSV: read_csv,
    PARQUET: read_parquet,
}
