"""What is asked of a revision before it is trusted with more, as JSON and as a value.

The same for an alias and for a rollout:

    {"dataset_version": "<id>", "dataset_name": "tickets:3", "split": "heldout", "min_examples": 500,
     "max_age_days": 30, "max_tokens": 256,
     "conditions": [{"metric": "exact_match", "at_least": 0.9, "worse_by_at_most": 0.01},
                    {"metric": "regex#1f0c9a3b57", "label": "regex (pattern ...)",
                     "measure": {"kind": "regex", "pattern": "..."}, "at_least": 0.8}]}

A condition goes by a metric as configured: `metric` is its key, `measure` how to measure it again
(training/metrics/measures.py). `at_least` and `at_most` bound the revision's own figure.
`worse_by_at_most` compares it with the revision that holds the place now, line by line: the whole
of the paired 95 % interval must lie within it, so that chance alone cannot pass.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

from common.errors import InvalidInput

MAX_CONDITIONS = 16
MAX_AGE_DAYS = 3650
MAX_TOKENS = 32_768
MAX_MEASURE_CHARACTERS = 20_000
RULE_WORDS = frozenset(
    {
        "dataset_version",
        "dataset_name",
        "split",
        "min_examples",
        "max_age_days",
        "max_tokens",
        "conditions",
    }
)
BOUNDS = ("at_least", "at_most", "worse_by_at_most")
CONDITION_WORDS = frozenset({"metric", "measure", "label", *BOUNDS})


@dataclass(frozen=True)
class Condition:
    """`metric` is the key of a measure; `measure` and `label` are told by whoever knows metrics."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    worse_by_at_most: float | None = None
    measure: Mapping[str, Any] | None = field(default=None, hash=False)
    label: str = ""

    @property
    def shown(self) -> str:
        return self.label or self.metric

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value not in (None, "")}


@dataclass(frozen=True)
class Rule:
    """`min_examples` keeps an evaluation of a few lines from counting as one of the split."""

    dataset_version_id: UUID
    dataset_name: str
    split: str
    conditions: tuple[Condition, ...]
    min_examples: int = 1
    max_age_days: float | None = None
    max_tokens: int | None = None  # of an answer, where an evaluation is begun for it

    @property
    def place(self) -> str:
        return f"{self.dataset_name}/{self.split}"

    @property
    def compares(self) -> bool:
        return any(each.worse_by_at_most is not None for each in self.conditions)

    @classmethod
    def read(cls, rule: Any, *, field: str = "rule") -> Self:
        """Raises InvalidInput by field."""
        if not isinstance(rule, Mapping):
            raise InvalidInput("A rule is an object.", field=field)
        for word in rule.keys() - RULE_WORDS:
            raise InvalidInput(
                "No such word.",
                field=f"{field}.{word}",
                remedy=f"Known are {', '.join(sorted(RULE_WORDS))}.",
            )
        try:
            version_id = UUID(str(rule["dataset_version"]))
        except (KeyError, ValueError):
            raise InvalidInput(
                "A rule names a dataset version by its id.", field=f"{field}.dataset_version"
            ) from None
        split = rule.get("split")
        if not isinstance(split, str) or not split:
            raise InvalidInput("A rule names a split.", field=f"{field}.split")
        conditions = rule.get("conditions")
        if not isinstance(conditions, list) or not 1 <= len(conditions) <= MAX_CONDITIONS:
            raise InvalidInput(
                "A rule has conditions.",
                field=f"{field}.conditions",
                remedy=f"Give 1 to {MAX_CONDITIONS} objects such as "
                '{"metric": "exact_match", "at_least": 0.9}.',
            )
        least = rule.get("min_examples", 1)
        if type(least) is not int or not 1 <= least < 2**31:
            raise InvalidInput(
                "It is out of range.", field=f"{field}.min_examples", remedy="Give 1 or more."
            )
        age = rule.get("max_age_days")
        if age is not None and not _is_number(age, 0.01, MAX_AGE_DAYS):
            raise InvalidInput(
                "It is out of range.",
                field=f"{field}.max_age_days",
                remedy=f"Give up to {MAX_AGE_DAYS}, or leave it out.",
            )
        longest = rule.get("max_tokens")
        if longest is not None and not (type(longest) is int and 1 <= longest <= MAX_TOKENS):
            raise InvalidInput(
                "It is out of range.",
                field=f"{field}.max_tokens",
                remedy=f"Give 1 to {MAX_TOKENS}.",
            )
        return cls(
            dataset_version_id=version_id,
            dataset_name=str(rule.get("dataset_name", "")),
            split=split,
            conditions=tuple(
                read_condition(each, f"{field}.conditions.{index}")
                for index, each in enumerate(conditions)
            ),
            min_examples=least,
            max_age_days=age,
            max_tokens=longest,
        )

    def as_json(self) -> dict[str, Any]:
        rule: dict[str, Any] = {
            "dataset_version": str(self.dataset_version_id),
            "dataset_name": self.dataset_name,
            "split": self.split,
            "min_examples": self.min_examples,
            "conditions": [each.as_json() for each in self.conditions],
        }
        more = {"max_age_days": self.max_age_days, "max_tokens": self.max_tokens}
        return rule | {name: value for name, value in more.items() if value is not None}


def read_condition(condition: Any, field: str) -> Condition:
    """Raises InvalidInput by field."""
    if not isinstance(condition, Mapping) or not isinstance(condition.get("metric"), str):
        raise InvalidInput("A condition names a metric.", field=f"{field}.metric")
    for name in condition.keys() - CONDITION_WORDS:
        raise InvalidInput(
            "No such word.",
            field=f"{field}.{name}",
            remedy=f"Known are {', '.join(sorted(CONDITION_WORDS))}.",
        )
    bounds = {name: condition.get(name) for name in BOUNDS}
    for name, value in bounds.items():
        low = 0.0 if name == "worse_by_at_most" else -math.inf
        if value is not None and not _is_number(value, low, math.inf):
            raise InvalidInput("This is no number that fits.", field=f"{field}.{name}")
    kept = {name: float(value) for name, value in bounds.items() if value is not None}
    if not kept:
        raise InvalidInput(
            "A condition bounds something.",
            field=field,
            remedy="Give at_least, at_most or worse_by_at_most.",
        )
    if not 1 <= len(condition["metric"]) <= 200 or "\0" in condition["metric"]:
        raise InvalidInput("This is no metric's name.", field=f"{field}.metric")
    return Condition(
        condition["metric"],
        **kept,
        measure=_read_measure(condition.get("measure"), f"{field}.measure"),
        label=str(condition.get("label", ""))[:200].replace("\0", ""),
    )


def _read_measure(measure: Any, field: str) -> Mapping[str, Any] | None:
    if measure is None:
        return None
    if not isinstance(measure, Mapping) or len(json.dumps(measure)) > MAX_MEASURE_CHARACTERS:
        raise InvalidInput(
            "This is no metric.", field=field, remedy='Give {"kind": ...} with its options.'
        )
    return dict(measure)


def _is_number(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and low <= value <= high
