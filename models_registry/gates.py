"""What an evaluation must have shown before a revision is trusted with more.

A rule is JSON, the same for an alias and for a rollout:

    {"dataset_version": "<id>", "dataset_name": "tickets:3", "split": "heldout", "min_examples": 500,
     "max_age_days": 30,
     "conditions": [{"metric": "exact_match", "at_least": 0.9, "worse_by_at_most": 0.01}]}

`at_least` and `at_most` bound the revision's own figure. `worse_by_at_most` compares it with the
revision that holds the place now, line by line: the whole of the paired 95 % interval must lie
within it, so that chance alone cannot pass. It asks for both in one evaluation.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

from django.utils.translation import gettext as _

from accounts.models import Organization
from common.errors import DomainError, InvalidInput
from models_registry.models import EvaluationResult, Revision

MAX_CONDITIONS = 16
MAX_AGE_DAYS = 3650
RULE_WORDS = frozenset(
    {"dataset_version", "dataset_name", "split", "min_examples", "max_age_days", "conditions"}
)


class GateNotPassed(DomainError):
    """The revision has not shown what the gate asks for."""

    code = "gate_not_passed"


@dataclass(frozen=True)
class Condition:
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    worse_by_at_most: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Rule:
    """`min_examples` keeps an evaluation of a few lines from counting as one of the split."""

    dataset_version_id: UUID
    dataset_name: str
    split: str
    conditions: tuple[Condition, ...]
    min_examples: int = 1
    max_age_days: float | None = None

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
        return cls(
            dataset_version_id=version_id,
            dataset_name=str(rule.get("dataset_name", "")),
            split=split,
            conditions=tuple(
                _read_condition(each, f"{field}.conditions.{index}")
                for index, each in enumerate(conditions)
            ),
            min_examples=least,
            max_age_days=age,
        )

    def as_json(self) -> dict[str, Any]:
        rule: dict[str, Any] = {
            "dataset_version": str(self.dataset_version_id),
            "dataset_name": self.dataset_name,
            "split": self.split,
            "min_examples": self.min_examples,
            "conditions": [each.as_json() for each in self.conditions],
        }
        return rule | ({} if self.max_age_days is None else {"max_age_days": self.max_age_days})


@dataclass(frozen=True)
class Judgement:
    """`is_passed` is None where there is nothing to go by yet; `reasons` say what is missing or
    not met, `remedy` what to do, `evidence` what was read."""

    is_passed: bool | None
    reasons: tuple[str, ...] = ()
    remedy: str = ""
    evidence: dict[str, Any] | None = None


def judge(
    rule: Rule,
    *,
    organization: Organization,
    revision: Revision,
    holder: Revision | None,
    now: datetime,
) -> Judgement:
    """By the organization's newest result that fits the rule. The one who holds the place already
    needs no comparison with itself, and where nobody holds it there is none to make."""
    rows = EvaluationResult.objects.of(organization).filter(
        revision=revision,
        dataset_version_id=rule.dataset_version_id,
        split=rule.split,
        examples__gte=rule.min_examples,
    )
    if rule.max_age_days is not None:
        rows = rows.filter(created_at__gte=now - timedelta(days=rule.max_age_days))
    against = holder if holder is not None and holder.pk != revision.pk else None
    results = list(rows.order_by("-created_at")[:20])
    if not results:
        return Judgement(None, (_missing(rule, revision),), _remedy(rule, revision, against))
    # The newest that can answer every condition: one with both sides, where sides are compared.
    wanted = next((each for each in results if _can_answer(rule, each, against)), results[0])
    reasons = tuple(_shortcomings(rule, wanted, against))
    is_answered = _can_answer(rule, wanted, against)
    return Judgement(
        is_passed=not reasons if is_answered else None,
        reasons=reasons,
        remedy="" if not reasons else _remedy(rule, revision, against if not is_answered else None),
        evidence={
            "evaluation": str(wanted.evaluation_id),
            "dataset": f"{wanted.dataset_name}/{wanted.split}",
            "examples": wanted.examples,
            "metrics": {each.metric: wanted.metrics.get(each.metric) for each in rule.conditions},
            "evaluated_at": wanted.created_at.isoformat(),
        },
    )


def _can_answer(rule: Rule, result: EvaluationResult, against: Revision | None) -> bool:
    compared = result.comparisons.get(str(against.pk), {}) if against is not None else {}
    for each in rule.conditions:
        is_bound = each.at_least is not None or each.at_most is not None
        if is_bound and each.metric not in result.metrics:
            return False
        is_compared = each.worse_by_at_most is not None and against is not None
        if is_compared and each.metric not in compared:
            return False
    return True


def _shortcomings(rule: Rule, result: EvaluationResult, against: Revision | None) -> Iterator[str]:
    for each in rule.conditions:
        value = result.metrics.get(each.metric)
        said = {"metric": each.metric, "value": _figure(value)}
        if each.at_least is not None and (value is None or value < each.at_least):
            yield _("%(metric)s is %(value)s, and at least %(bound)s is asked for.") % {
                **said,
                "bound": _figure(each.at_least),
            }
        if each.at_most is not None and (value is None or value > each.at_most):
            yield _("%(metric)s is %(value)s, and at most %(bound)s is asked for.") % {
                **said,
                "bound": _figure(each.at_most),
            }
        if each.worse_by_at_most is not None and against is not None:
            seen = result.comparisons.get(str(against.pk), {}).get(each.metric)
            if seen is None:
                yield _("It has not been compared with %(holder)s by %(metric)s.") % {
                    **said,
                    "holder": against,
                }
            elif _worst(each.metric, seen) < -each.worse_by_at_most:
                yield _(
                    "By %(metric)s it may be %(worst)s worse than %(holder)s (95 %% interval "
                    "%(low)s to %(high)s), and at most %(bound)s is allowed."
                ) % {
                    **said,
                    "worst": _figure(-_worst(each.metric, seen)),
                    "holder": against,
                    "low": _figure(seen["low"]),
                    "high": _figure(seen["high"]),
                    "bound": _figure(each.worse_by_at_most),
                }


def _worst(metric: str, seen: Mapping[str, Any]) -> float:
    """The end of the interval at which the revision looks worst; below 0 it is worse."""
    return float(-seen["high"] if seen.get("lower_is_better") else seen["low"])


def _missing(rule: Rule, revision: Revision) -> str:
    return _("%(revision)s has no fresh evaluation of at least %(count)s lines on %(split)s.") % {
        "revision": revision,
        "count": rule.min_examples,
        "split": f"{rule.dataset_name}/{rule.split}",
    }


def _remedy(rule: Rule, revision: Revision, against: Revision | None) -> str:
    said = {
        "split": f"{rule.dataset_name}/{rule.split}",
        "metrics": ", ".join(sorted({each.metric for each in rule.conditions})),
        "revision": revision,
        "holder": against,
    }
    if against is not None and any(each.worse_by_at_most is not None for each in rule.conditions):
        return (
            _(
                "Serve %(revision)s and %(holder)s and evaluate both at once on all of %(split)s, "
                "by %(metrics)s."
            )
            % said
        )
    return _("Serve %(revision)s and evaluate it on all of %(split)s, by %(metrics)s.") % said


def _read_condition(condition: Any, field: str) -> Condition:
    if not isinstance(condition, Mapping) or not isinstance(condition.get("metric"), str):
        raise InvalidInput("A condition names a metric.", field=f"{field}.metric")
    bounds = {name: value for name, value in condition.items() if name != "metric"}
    for name, value in bounds.items():
        if name not in ("at_least", "at_most", "worse_by_at_most"):
            raise InvalidInput(
                "No such word.",
                field=f"{field}.{name}",
                remedy="Known are metric, at_least, at_most, worse_by_at_most.",
            )
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
    if not 1 <= len(condition["metric"]) <= 100 or "\0" in condition["metric"]:
        raise InvalidInput("This is no metric's name.", field=f"{field}.metric")
    return Condition(condition["metric"], **kept)


def _is_number(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and low <= value <= high


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
