"""Balance of labels: where answers are JSON objects, how often each field has each value."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from training.doctor.examples import Example
from training.doctor.findings import Finding, Ledger, excerpt

MOST_FIELDS = 50
MOST_VALUES = 1000  # of one field; with more it is free text
VALUE_CHARACTERS = 60
SHOWN_VALUES = 30
LEAST_EXAMPLES = 50  # below this, shares say little
MOST_LABELS = 100  # a field with more values than this is no label
ONE_SIDED = 0.9
FEWEST_EACH = 2  # examples a value, on the mean, of a field that labels them
RARE = 5


@dataclass
class Field:
    """Values of one field; `is_open` once there were too many to be labels."""

    values: Counter[str] = field(default_factory=Counter)
    first_lines: dict[str, int] = field(default_factory=dict)
    present: int = 0
    is_open: bool = False

    def add(self, value: str | None, line: int) -> None:
        self.present += 1
        if value is None:
            self.is_open = True
        if self.is_open:
            return
        assert value is not None  # noqa: S101 - an open field was left above
        self.values[value] += 1
        self.first_lines.setdefault(value, line)
        self._bound()

    def merge(self, other: Field) -> None:
        self.present += other.present
        self.is_open = self.is_open or other.is_open
        self.values.update(other.values)
        for value, line in other.first_lines.items():
            self.first_lines.setdefault(value, line)
        self._bound()

    def _bound(self) -> None:
        if self.is_open or len(self.values) > MOST_VALUES:
            self.is_open = True
            self.values.clear()
            self.first_lines.clear()


@dataclass
class Balance:
    """Of one split: answers that are JSON objects, and their fields."""

    answers: int = 0
    fields: dict[str, Field] = field(default_factory=dict)

    def look(self, example: Example) -> None:
        if example.label is not None:
            self._count("label", example.label, example.line)
        text = example.answer
        if not text.startswith("{") and not text.lstrip().startswith("{"):
            return
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError:
            return
        self.answers += 1
        for name, value in row.items():
            self._count(name, value, example.line)

    def _count(self, name: str, value: Any, line: int) -> None:
        known = self.fields.get(name)
        if known is None:
            if len(self.fields) >= MOST_FIELDS:
                return
            known = self.fields[name] = Field()
        known.add(as_label(value), line)

    def merge(self, other: Balance) -> None:
        self.answers += other.answers
        for name, one in other.fields.items():
            if name in self.fields:
                self.fields[name].merge(one)
            elif len(self.fields) < MOST_FIELDS:
                self.fields[name] = one

    def as_json(self) -> dict[str, Any]:
        """{"answers", "fields": {name: {"present", "distinct", "values": [[value, count], ...]}}}."""
        return {
            "answers": self.answers,
            "fields": {
                excerpt(name): {
                    "present": one.present,
                    "distinct": None if one.is_open else len(one.values),
                    "values": [
                        [excerpt(value), count]
                        for value, count in one.values.most_common(SHOWN_VALUES)
                    ],
                }
                for name, one in self.fields.items()
            },
        }

    def judge(self, ledger: Ledger, split: str) -> None:
        for name, one in self.fields.items():
            total = one.values.total()
            if total < LEAST_EXAMPLES or not 2 <= len(one.values) <= MOST_LABELS:
                continue
            if len(one.values) * FEWEST_EACH > total:
                continue  # numbers of orders and the like: each value is nearly its own
            value, most = one.values.most_common(1)[0]
            if most >= ONE_SIDED * total:
                told = f"{name} = {value}"
                line = one.first_lines[value]
                ledger.add(
                    Finding("unbalanced", split, line, name, excerpt(told), score=most / total)
                )
            for rare, count in one.values.items():
                if count < RARE:
                    told = f"{name} = {rare}"
                    line = one.first_lines[rare]
                    ledger.add(Finding("rare_value", split, line, name, excerpt(told), score=count))


def as_label(value: Any) -> str | None:
    """A short scalar as a word; None for what is no label."""
    if isinstance(value, str):
        return value if len(value) <= VALUE_CHARACTERS else None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if isinstance(value, int | float) else None
