"""Gates asked for with a dataset's split and with metrics as configured: both are looked up here
and named to the registry, which knows neither."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from accounts import audit
from accounts.models import Organization
from common.errors import InvalidInput
from models_registry import promotion
from models_registry.models import AliasGate, EvaluationResult
from models_registry.rules import Condition, Rule
from training.metrics import measures, reading
from training.metrics.fields import JsonFields
from training.metrics.measures import FIELD, Measure
from training.services.evaluations import find_split

CONFIGURED = 'Say how it is measured, as in {"measure": {"kind": "regex", "pattern": "..."}}.'


def set_alias_gate(
    *,
    organization: Organization,
    model_id: UUID,
    alias: str,
    rule: Mapping[str, Any],
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> AliasGate:
    """`rule` as models_registry/rules.py has it; without `min_examples` the whole split must have
    been asked. Raises NotFound, InvalidInput."""
    return promotion.set_gate(
        organization=organization,
        model_id=model_id,
        alias=alias,
        rule=complete_rule(organization, rule),
        actor=actor,
        now=now,
    )


def complete_rule(organization: Organization, rule: Mapping[str, Any]) -> Rule:
    """With the split looked up among the organization's own, and each condition tied to a metric
    as configured. A condition may leave out `metric` where its `measure` gives but one score.
    Raises NotFound, InvalidInput by field."""
    asked = Rule.read(_with_names(rule))
    split = find_split(organization, asked.dataset_version_id, asked.split)
    least = rule.get("min_examples", split.examples)
    if least > split.examples:
        raise InvalidInput(
            f"The split has {split.examples} lines.",
            field="rule.min_examples",
            remedy=f"Give at most {split.examples}.",
        )
    return replace(
        asked,
        dataset_name=str(split.version),
        min_examples=least,
        conditions=tuple(
            _tied(organization, asked, each, f"rule.conditions.{index}")
            for index, each in enumerate(asked.conditions)
        ),
    )


def _with_names(rule: Any) -> Any:
    """A condition that says how to measure need not say what that is called."""
    if not isinstance(rule, Mapping) or not isinstance(rule.get("conditions"), list):
        return rule
    named = []
    for each in rule["conditions"]:
        if isinstance(each, Mapping) and "metric" not in each and "measure" in each:
            kind = each["measure"].get("kind") if isinstance(each["measure"], Mapping) else None
            named.append({**each, "metric": str(kind)})
        else:
            named.append(each)
    return {**rule, "conditions": named}


def _tied(organization: Organization, rule: Rule, asked: Condition, field: str) -> Condition:
    measure = (
        _as_configured(asked, field)
        if asked.measure is not None
        else _by_name(organization, rule, asked, field)
    )
    if measure.lower_is_better and asked.at_least is not None:
        raise InvalidInput(
            f"Of {measure.label} less is better.",
            field=f"{field}.at_least",
            remedy="Bound it with at_most.",
        )
    return replace(asked, metric=measure.key, measure=measure.metric, label=measure.label)


def _as_configured(asked: Condition, field: str) -> Measure:
    try:
        (metric,) = reading.read([asked.measure or {}])
    except InvalidInput as error:
        option = (error.field or "").removeprefix("metrics.0").lstrip(".")
        raise InvalidInput(
            error.message, field=f"{field}.measure.{option}".rstrip("."), remedy=error.remedy
        ) from error
    base = asked.metric.partition("#")[0]
    known = measures.scores_of(metric)
    if base in known or (isinstance(metric, JsonFields) and base.startswith(FIELD)):
        return measures.of_metric(metric, base)
    if base in (reading.kind_of(metric), metric.name) and len(known) == 1:
        return measures.of_metric(metric, known[0])
    raise InvalidInput(
        f"That metric gives no {base!r}.",
        field=f"{field}.metric",
        remedy=f"Use one of {', '.join(known)}.",
    )


def _by_name(organization: Organization, rule: Rule, asked: Condition, field: str) -> Measure:
    """A name alone means the metric's defaults; another one means what results on this dataset
    version have under it, if that is one thing."""
    default = measures.of_default(asked.metric)
    if default is not None:
        return default
    found = _seen(organization, rule, asked.metric)
    if len(found) == 1:
        return next(iter(found.values()))
    if found or asked.metric in reading.KINDS or "#" in asked.metric:
        raise InvalidInput(
            f"{asked.metric!r} does not say what is measured: {len(found)} metrics of that name "
            "have been measured on this dataset version.",
            field=f"{field}.metric",
            remedy=CONFIGURED,
        )
    return measures.of_name(asked.metric)


def _seen(organization: Organization, rule: Rule, name: str) -> dict[str, Measure]:
    """By key: what the organization's results call so, or have under that key."""
    rows = EvaluationResult.objects.of(organization).filter(
        dataset_version_id=rule.dataset_version_id
    )
    found = {}
    for kept in rows.exclude(measures={}).values_list("measures", flat=True)[:200]:
        for called, each in kept.items():
            if name in (called, each["key"]):
                found[each["key"]] = Measure(**each)
    return found
