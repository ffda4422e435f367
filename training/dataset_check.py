"""Checking whole datasets: every line of every split is read, and everything wrong is told.

Files are read line by line. Memory does not grow with them but for 8 bytes a line, from which
repeated examples are counted (64-bit hashes: among 5 million lines a false repetition has a chance
under one in a million).
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, BinaryIO

import numpy as np

from training import chat_lines
from training.chat_lines import ChatLine, Problem

MAX_LINES = 5_000_000
ERRORS_KEPT = 1000
UNKNOWN_KEYS_KEPT = 50
UNKNOWN_KEYS_COUNTED = 1000  # different ones; a file may have one a line
SAMPLE_CHARACTERS = 2000


@dataclass
class SplitReport:
    """What one file holds. `sha256` is of the bytes that were looked at."""

    examples: int = 0
    lines: int = 0
    blank_lines: int = 0
    size_bytes: int = 0
    sha256: str = ""
    errors: int = 0
    messages: int = 0
    with_system: int = 0
    duplicates: int = 0  # lines whose messages an earlier line of this split has too
    characters: int = 0
    longest_characters: int = 0
    longest_line: int = 0
    sample: list[dict[str, str]] = field(default_factory=list)  # the first example, shortened


@dataclass
class Report:
    """The outcome. `errors` keeps the first 1,000 in full; `errors_total` counts all."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    errors_total: int = 0
    error_codes: Counter[str] = field(default_factory=Counter)
    unknown_keys: Counter[str] = field(default_factory=Counter)
    leakage: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_valid(self) -> bool:
        return self.errors_total == 0

    def count_unknown(self, keys: Iterable[str]) -> None:
        """Count keys that training ignores, the first thousand different ones."""
        for key in keys:
            if key in self.unknown_keys or len(self.unknown_keys) < UNKNOWN_KEYS_COUNTED:
                self.unknown_keys[key] += 1

    def as_json(self) -> dict[str, Any]:
        """Plain JSON: kept with the version, and sent as the details of a refusal."""
        return {
            "format": "openai_chat",
            "is_valid": self.is_valid,
            "examples": sum(split.examples for split in self.splits.values()),
            "errors_total": self.errors_total,
            "errors": self.errors,
            "error_codes": dict(self.error_codes.most_common()),
            "unknown_keys": dict(self.unknown_keys.most_common(UNKNOWN_KEYS_KEPT)),
            "leakage": self.leakage,
            "splits": {name: asdict(split) for name, split in self.splits.items()},
        }


def check(files: Mapping[str, BinaryIO]) -> Report:
    """Read every split from its present position to its end. Never raises for what is in them."""
    report = Report()
    hashes = {name: _check_split(report, name, file) for name, file in files.items()}
    for (left, left_hashes), (right, right_hashes) in combinations(hashes.items(), 2):
        shared = len(np.intersect1d(left_hashes, right_hashes, assume_unique=True))
        if shared:
            report.leakage.append({"splits": [left, right], "examples": shared})
    return report


Hashes = np.ndarray[Any, np.dtype[np.uint64]]


def _check_split(report: Report, name: str, file: BinaryIO) -> Hashes:
    split = report.splits[name] = SplitReport()
    digest = hashlib.sha256()
    seen = array("Q")
    while raw := file.readline(chat_lines.MAX_LINE_BYTES + 1):
        split.lines += 1
        split.size_bytes += len(raw)
        digest.update(raw)
        if split.lines > MAX_LINES:
            _tell(report, name, split.lines, _too_many_lines())
            break
        if not raw.strip():
            split.blank_lines += 1
            continue
        line = chat_lines.parse(raw)
        while not raw.endswith(b"\n") and (raw := file.readline(chat_lines.MAX_LINE_BYTES)):
            split.size_bytes += len(raw)  # the rest of a line that is too long: passed over
            digest.update(raw)
        for problem in line.problems:
            _tell(report, name, split.lines, problem)
        report.count_unknown(line.unknown_keys)
        if not line.problems:
            seen.append(_count(split, line))
    split.sha256 = digest.hexdigest()
    if not split.examples and not split.errors:
        problem = Problem(
            "no_examples", "", "The file has no lines.", "Upload a file with examples."
        )
        _tell(report, name, 1, problem)
    unique = np.unique(np.frombuffer(seen, dtype=np.uint64)) if seen else np.empty(0, np.uint64)
    split.duplicates = len(seen) - len(unique)
    return unique


def _too_many_lines() -> Problem:
    return Problem(
        "too_many_lines",
        "",
        f"The file has more than {MAX_LINES:,} lines; the rest was not read.",
        "Upload it as several splits or datasets.",
    )


def _tell(report: Report, split: str, line: int, problem: Problem) -> None:
    report.errors_total += 1
    report.splits[split].errors += 1
    report.error_codes[problem.code] += 1
    if len(report.errors) < ERRORS_KEPT:
        report.errors.append({"split": split, "line": line} | asdict(problem))


def _count(split: SplitReport, line: ChatLine) -> int:
    """Add a good line to the figures; returns the hash of its roles and contents."""
    split.examples += 1
    split.messages += len(line.messages)
    split.with_system += line.messages[0]["role"] == "system"
    digest = hashlib.blake2b(digest_size=8)
    characters = 0
    for message in line.messages:
        content = message["content"]
        characters += len(content)
        digest.update(f"{message['role']} {len(content)} {content}".encode())
    split.characters += characters
    if characters > split.longest_characters:
        split.longest_characters, split.longest_line = characters, split.lines
    if not split.sample:
        split.sample = [
            {"role": m["role"], "content": m["content"][:SAMPLE_CHARACTERS]} for m in line.messages
        ]
    return int.from_bytes(digest.digest(), "little")
