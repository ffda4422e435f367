"""Reading whole files of any format: every row is looked at, everything wrong is told by line.

What is good is written as canonical lines (see `training.formats`), one after the other, in memory
that does not grow with the files but for 8 bytes a row where lines are to be held out.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from common.texts import Text
from training import formats, splits
from training.formats import columns, containers
from training.formats.problems import Findings, Problem
from training.splits import SplitPlan

MAX_LINES = 5_000_000
ERRORS_KEPT = 1000
UNKNOWN_KEYS_KEPT = 50
UNKNOWN_KEYS_COUNTED = 1000  # different ones; a file may have one a line
TELL_EVERY = 20_000  # lines between two words about progress
COLUMNS_KEPT = 200

Progress = Callable[[int], None]


@dataclass
class Source:
    """One file as it came. `lines` counts rows of CSV and Parquet, elements of a JSON list."""

    name: str
    file_name: str = ""
    container: str = ""
    format: str = ""
    mapping: dict[str, str] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    lines: int = 0
    examples: int = 0
    errors: int = 0
    size_bytes: int = 0
    sha256: str = ""


@dataclass
class Report:
    """The outcome. `errors` keeps the first 1,000 in full; `errors_total` counts all."""

    sources: dict[str, Source] = field(default_factory=dict)
    kind: str = ""
    errors: list[dict[str, Any]] = field(default_factory=list)
    errors_total: int = 0
    error_codes: Counter[str] = field(default_factory=Counter)
    unknown_keys: Counter[str] = field(default_factory=Counter)
    files: dict[str, Path] = field(default_factory=dict)  # by split: canonical lines

    @property
    def is_valid(self) -> bool:
        return self.errors_total == 0

    @property
    def format(self) -> str:
        """CSV and Parquet by their own name, others by what a row looks like."""
        for source in self.sources.values():
            by_file = source.container in (containers.CSV, containers.PARQUET)
            return source.container if by_file else source.format
        return ""

    @property
    def mapping(self) -> dict[str, str]:
        return next((source.mapping for source in self.sources.values()), {})

    def count_unknown(self, keys: Iterable[str]) -> None:
        """Count keys that training ignores, the first thousand different ones."""
        for key in keys:
            if key in self.unknown_keys or len(self.unknown_keys) < UNKNOWN_KEYS_COUNTED:
                self.unknown_keys[key] += 1

    def tell(self, source: Source, line: int, problem: Problem) -> None:
        self.errors_total += 1
        source.errors += 1
        self.error_codes[problem.code] += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append({"split": source.name, "line": line} | problem.as_json())

    def as_json(self) -> dict[str, Any]:
        """Plain JSON: kept with the version, and sent as the details of a refusal."""
        return {
            "format": self.format,
            "kind": self.kind,
            "is_valid": self.is_valid,
            "examples": sum(source.examples for source in self.sources.values()),
            "errors_total": self.errors_total,
            "errors": self.errors,
            "error_codes": dict(self.error_codes.most_common()),
            "unknown_keys": dict(self.unknown_keys.most_common(UNKNOWN_KEYS_KEPT)),
            "sources": [asdict(source) for source in self.sources.values()],
        }


def convert(
    files: Mapping[str, BinaryIO],
    into: Path,
    *,
    format: str = "",
    mapping: Mapping[str, str] | None = None,
    plan: SplitPlan | None = None,
    file_names: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read every file from its beginning and write good rows into the folder, a file a split.

    `format` is a row format of `training.formats`, "csv" or "parquet"; where it is empty, each file's
    first row tells. With a plan there is one file, whose lines are dealt out. Never raises for what
    is in the files.
    """
    report = Report()
    done = 0
    for name in sorted(files, key=lambda split: (split != splits.TRAIN, split)):
        file = files[name]
        source = _identify(name, file, (file_names or {}).get(name, ""))
        report.sources[name] = source
        path = into / f"{name}.jsonl"
        keys = array("Q") if plan else None
        with path.open("wb") as out:
            reading = _Reading(report, source, out, dict(mapping or {}), plan, keys)
            done = reading.run(file, format, done, progress)
        report.files[name] = path
        if plan and keys and report.is_valid:
            _deal_out(report, source, path, keys, plan)
    return report


def _identify(name: str, file: BinaryIO, file_name: str) -> Source:
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type] # spooled files do as well
    size = file.seek(0, 2)
    file.seek(0)
    container = containers.sniff(file, file_name)
    return Source(name, file_name, container=container, size_bytes=size, sha256=digest.hexdigest())


class _Reading:
    """One file on its way to canonical lines."""

    def __init__(
        self,
        report: Report,
        source: Source,
        out: BinaryIO,
        mapping: dict[str, str],
        plan: SplitPlan | None,
        keys: "array[int] | None",
    ) -> None:
        self.report, self.source, self.out = report, source, out
        self.mapping, self.plan, self.keys = mapping, plan, keys

    def run(self, file: BinaryIO, format: str, done: int, progress: Progress | None) -> int:
        source, report = self.source, self.report
        if format in (containers.CSV, containers.PARQUET):
            source.container = format
        elif format:
            source.format = format
        if not self._settle_columns(file):
            return done
        for record in containers.read(source.container, file):
            source.lines = record.number
            done += 1
            if progress is not None and done % TELL_EVERY == 0:
                progress(done)
            if record.number > MAX_LINES:
                report.tell(source, record.number, _too_many_lines())
                break
            if record.problem is not None:
                report.tell(source, record.number, record.problem)
            else:
                self._row(record)
        if not source.examples and not source.errors:
            problem = Problem(
                "no_examples",
                "",
                Text("The file has no lines."),
                Text("Upload a file with examples."),
            )
            report.tell(source, 1, problem)
        return done

    def _settle_columns(self, file: BinaryIO) -> bool:
        """Which columns become which fields; false if they cannot."""
        source = self.source
        is_table = source.container in (containers.CSV, containers.PARQUET)
        if not is_table and not self.mapping:
            return True
        source.columns = containers.columns(source.container, file)[:COLUMNS_KEPT]
        if not source.columns:
            return True  # nothing there, or unreadable: reading says so
        if not self.mapping:
            self.mapping = columns.guess(source.columns)
        wrong = columns.problem_with(self.mapping, source.columns) if self.mapping else None
        if not self.mapping or wrong:
            message, remedy = wrong or (
                Text(
                    "The columns %(names)s make no example by themselves.",
                    names=source.columns[:30],
                ),
                Text("Give a mapping such as prompt=question, completion=answer."),
            )
            self.report.tell(source, 1, Problem("mapping_invalid", "mapping", message, remedy))
            return False
        source.mapping = self.mapping
        if not source.format:
            source.format = formats.detect(dict.fromkeys(self.mapping))
        return True

    def _row(self, record: containers.Record) -> None:
        source, report, row = self.source, self.report, record.row
        found = Findings()
        if self.mapping and isinstance(row, dict):
            row = columns.apply(found, self.mapping, row)
        if not source.format and isinstance(row, dict):
            source.format = formats.detect(row)
            if not source.format:
                report.tell(source, record.number, _unknown_format(row))
                return
        line, more = formats.convert(source.format or "openai_chat", row)
        problems = found.problems + more.problems
        data = b"" if problems else self._written(record, row, line, problems)
        key = b"" if problems else self._key(record, data, problems)
        if problems:
            for problem in problems:
                report.tell(source, record.number, problem)
            return
        report.count_unknown(more.unknown_keys)
        if not self._is_of_kind(record.number):
            return
        if self.keys is not None:
            self.keys.append(splits.key_of(key))
        self.out.write(data)
        source.examples += 1

    def _written(
        self, record: containers.Record, row: Any, line: dict[str, Any], problems: list[Problem]
    ) -> bytes:
        """The line's bytes: those it came as, if nothing about it was changed."""
        if record.raw and line == row:
            return record.raw if record.raw.endswith(b"\n") else record.raw + b"\n"
        try:
            return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        except (TypeError, ValueError) as error:  # a surrogate in a tool, a number past 64 bits
            problems.append(
                Problem(
                    "not_writable",
                    "",
                    Text(
                        "The line holds something that JSON cannot carry: %(error)s.",
                        error=str(error)[:100],
                    ),
                    Text("Write texts in whole characters and numbers of up to 64 bits."),
                )
            )
            return b""

    def _key(self, record: containers.Record, data: bytes, problems: list[Problem]) -> Any:
        if self.plan is None or not self.plan.group_by:
            return data
        value = splits.value_at(record.row, self.plan.group_by)
        if value is None:
            problems.append(
                Problem(
                    "group_key_missing",
                    self.plan.group_by,
                    Text(
                        "The line has no %(group_by)s, by which lines are to be kept together.",
                        group_by=self.plan.group_by,
                    ),
                    Text("Give every line this field, or hold out by another or by none."),
                )
            )
        return value

    def _is_of_kind(self, number: int) -> bool:
        kind = formats.BY_NAME[self.source.format].KIND
        if not self.report.kind:
            self.report.kind = kind
        if kind == self.report.kind:
            return True
        problem = Problem(
            "kinds_differ",
            "",
            Text(
                "This file holds %(kind)s lines, the others %(others)s.",
                kind=kind,
                others=self.report.kind,
            ),
            Text("Upload files of one kind together."),
        )
        if not self.source.errors:
            self.report.tell(self.source, number, problem)
        return False


def _deal_out(
    report: Report, source: Source, path: Path, keys: "array[int]", plan: SplitPlan
) -> None:
    """Replace the one file by a file for each split of the plan."""
    try:
        names, side = splits.assign(np.frombuffer(keys, dtype=np.uint64), plan)
    except splits.TooFewGroups as error:
        problem = Problem(
            "too_few_groups",
            "splits",
            error.message,
            Text("Hold out less, or group by another field."),
        )
        report.tell(source, 1, problem)
        return
    whole = path.rename(path.with_suffix(".whole"))
    del report.files[source.name]
    with ExitStack() as stack:
        outs = []
        for name in names:
            report.files[name] = path.with_name(f"{name}.jsonl")
            outs.append(stack.enter_context(report.files[name].open("wb")))
        with whole.open("rb") as lines:
            for raw, number in zip(lines, side.tolist(), strict=True):
                outs[number].write(raw)
    whole.unlink()


def _too_many_lines() -> Problem:
    return Problem(
        "too_many_lines",
        "",
        Text(
            "The file has more than %(most)s lines; the rest was not read.",
            most=f"{MAX_LINES:,}",
        ),
        Text("Upload it as several splits or datasets."),
    )


def _unknown_format(row: dict[str, Any]) -> Problem:
    names = ", ".join(sorted(str(key)[:40] for key in list(row)[:10])) or "none"
    return Problem(
        "format_unknown",
        "",
        Text("The keys %(names)s make no format we know.", names=names),
        Text(
            "Write messages; prompt and completion; prompt, chosen and rejected; "
            "instruction and output; or conversations. Or give a mapping from these to "
            "your own keys."
        ),
    )
