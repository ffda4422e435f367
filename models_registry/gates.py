"""Whether a revision has shown what a rule asks for: passed, not passed, or nothing to go by yet.

The one place that says so, for aliases and for rollouts. Rules are in `rules.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils.translation import gettext as _

from accounts.models import Organization
from common.errors import DomainError
from models_registry.models import EvaluationResult, Revision
from models_registry.rules import Condition, Rule

LOOKED_AT = 20  # of a revision's newest results

Complete = Callable[[Organization, Mapping[str, Any]], Rule]
_complete: list[Complete] = [lambda organization, rule: Rule.read(rule)]


class GateNotPassed(DomainError):
    """The revision has not shown what the gate asks for."""

    code = "gate_not_passed"


@dataclass(frozen=True)
class Judgement:
    """`is_passed` is None where there is nothing to go by yet; `reasons` say what is missing or
    not met, `remedy` what to do, `evidence` what was read."""

    is_passed: bool | None
    reasons: tuple[str, ...] = ()
    remedy: str = ""
    evidence: dict[str, Any] | None = None


def say_how(complete: Complete) -> None:
    """Called once, when the process is set up, by whoever knows data sets and metrics."""
    _complete[0] = complete


def complete_rule(organization: Organization, rule: Mapping[str, Any]) -> Rule:
    """From what people write to a rule with its split and metrics looked up. Raises NotFound,
    InvalidInput by field."""
    return _complete[0](organization, rule)


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
    results = list(rows.order_by("-created_at")[:LOOKED_AT])
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
            "metrics": {each.metric: _value(wanted, each) for each in rule.conditions},
            "evaluated_at": wanted.created_at.isoformat(),
        },
    )


def _can_answer(rule: Rule, result: EvaluationResult, against: Revision | None) -> bool:
    for each in rule.conditions:
        is_bound = each.at_least is not None or each.at_most is not None
        if is_bound and _value(result, each) is None:
            return False
        is_compared = each.worse_by_at_most is not None and against is not None
        if is_compared and _lead(result, each, against) is None:
            return False
    return True


def _value(result: EvaluationResult, condition: Condition) -> float | None:
    """What was measured in the very way that the condition means, whatever it was called."""
    name = result.name_of(condition.metric)
    return None if name is None else result.metrics.get(name)


def _lead(
    result: EvaluationResult, condition: Condition, against: Revision | None
) -> dict[str, Any] | None:
    name = result.name_of(condition.metric)
    if against is None or name is None:
        return None
    seen: dict[str, Any] | None = result.comparisons.get(str(against.pk), {}).get(name)
    return seen


def _shortcomings(rule: Rule, result: EvaluationResult, against: Revision | None) -> Iterator[str]:
    for each in rule.conditions:
        value = _value(result, each)
        said = {"metric": each.shown, "value": _figure(value)}
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
            seen = _lead(result, each, against)
            if seen is None:
                yield _("It has not been compared with %(holder)s by %(metric)s.") % {
                    **said,
                    "holder": against,
                }
            elif _worst(seen) < -each.worse_by_at_most:
                yield _(
                    "By %(metric)s it may be %(worst)s worse than %(holder)s (95 %% interval "
                    "%(low)s to %(high)s), and at most %(bound)s is allowed."
                ) % {
                    **said,
                    "worst": _figure(-_worst(seen)),
                    "holder": against,
                    "low": _figure(seen["low"]),
                    "high": _figure(seen["high"]),
                    "bound": _figure(each.worse_by_at_most),
                }


def _worst(seen: Mapping[str, Any]) -> float:
    """The end of the interval at which the revision looks worst; below 0 it is worse."""
    return float(-seen["high"] if seen.get("lower_is_better") else seen["low"])


def _missing(rule: Rule, revision: Revision) -> str:
    return _("%(revision)s has no fresh evaluation of at least %(count)s lines on %(split)s.") % {
        "revision": revision,
        "count": rule.min_examples,
        "split": rule.place,
    }


def _remedy(rule: Rule, revision: Revision, against: Revision | None) -> str:
    said = {
        "split": rule.place,
        "metrics": ", ".join(sorted({each.shown for each in rule.conditions})),
        "revision": revision,
        "holder": against,
    }
    if against is not None and rule.compares:
        return (
            _(
                "Serve %(revision)s and %(holder)s and evaluate both at once on all of %(split)s, "
                "by %(metrics)s."
            )
            % said
        )
    return _("Serve %(revision)s and evaluate it on all of %(split)s, by %(metrics)s.") % said


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
