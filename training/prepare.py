"""From files as they came to canonical lines and a diagnosis; also a program for large ones.

`python -m training.prepare` reads one JSON object from stdin: `files`, `file_names`, `format`,
`mapping`, `plan`, `references`, `into` (a folder of its own), `workers`. It prints a JSON object a
line: {"lines": how many were read} on the way, and last {"result": ...} as `Prepared.as_json` has it.
It needs no database and no environment.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

from training import dataset_check, doctor
from training.doctor.findings import Finding
from training.splits import SplitPlan

MEMORY_BYTES = 8 * 2**30  # of address space, in each process


@dataclass
class Prepared:
    """`files` are the canonical lines of each split; `report` what is kept with the version."""

    files: dict[str, Path]
    report: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    indices: dict[str, list[list[int]]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "files": {name: str(path) for name, path in self.files.items()},
            "report": self.report,
            "findings": [asdict(one) for one in self.findings],
            "indices": self.indices,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            files={name: Path(path) for name, path in data["files"].items()},
            report=data["report"],
            findings=[Finding(**one) for one in data["findings"]],
            indices=data["indices"],
        )


def prepare(
    files: Mapping[str, BinaryIO],
    into: Path,
    *,
    format: str = "",
    mapping: Mapping[str, str] | None = None,
    plan: SplitPlan | None = None,
    file_names: Mapping[str, str] | None = None,
    references: Mapping[str, Path] | None = None,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Prepared:
    """Read, convert, hold out and examine. `report["is_valid"]` says whether all lines are good; if
    not there are no files."""
    checked = dataset_check.convert(
        files,
        into,
        format=format,
        mapping=mapping,
        plan=plan,
        file_names=file_names,
        progress=progress,
    )
    report = checked.as_json() | {"mapping": checked.mapping, "leakage": [], "splits": {}}
    if not checked.is_valid:
        errors = [
            Finding("error", one["split"], one["line"], one["field"], one["message"])
            for one in checked.errors
        ]
        return Prepared({}, report, errors)
    converted = report["examples"]
    diagnosis = doctor.examine(
        checked.files,
        kind=checked.kind,
        references=references,
        workers=workers,
        progress=(lambda lines: progress(converted + lines)) if progress else None,
    )
    indices = {name: split.index for name, split in diagnosis.splits.items()}
    return Prepared(checked.files, report | diagnosis.as_json(), diagnosis.findings(), indices)


def main(given: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(Path(path).open("rb"))
            for name, path in given["files"].items()
        }
        prepared = prepare(
            files,
            Path(given["into"]),
            format=given["format"],
            mapping=given["mapping"],
            plan=SplitPlan.from_json(given["plan"]) if given["plan"] else None,
            file_names=given["file_names"],
            references={name: Path(path) for name, path in given["references"].items()},
            workers=given.get("workers") or min(8, len(os.sched_getaffinity(0))),
            progress=lambda lines: say({"lines": lines}),
        )
    say({"result": prepared.as_json()})


def said(lines: Iterable[bytes], progress: Callable[[int], None]) -> Prepared | None:
    """What the program prints, read: progress on the way, the result at its end if it has one."""
    for line in lines:
        try:
            word = json.loads(line)
        except ValueError:  # it was ended in the middle of a word
            return None
        if "result" in word:
            return Prepared.from_json(word["result"])
        progress(word["lines"])
    return None


def _say(word: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    main(json.loads(sys.stdin.read()), _say)
