"""Gates on aliases, asked for with a dataset's split: it is looked up here and named to the
registry, which knows no datasets."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from accounts import audit
from accounts.models import Organization
from common.errors import InvalidInput
from models_registry import promotion
from models_registry.rules import Rule
from models_registry.models import AliasGate
from training.services.evaluations import find_split


def set_alias_gate(
    *,
    organization: Organization,
    model_id: UUID,
    alias: str,
    rule: Mapping[str, Any],
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> AliasGate:
    """`rule` as models_registry/gates.py has it; without `min_examples` the whole split must have
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
    """With the split looked up among the organization's own."""
    asked = Rule.read(rule)
    split = find_split(organization, asked.dataset_version_id, asked.split)
    least = rule.get("min_examples", split.examples)
    if least > split.examples:
        raise InvalidInput(
            f"The split has {split.examples} lines.",
            field="rule.min_examples",
            remedy=f"Give at most {split.examples}.",
        )
    named = {"dataset_name": str(split.version), "min_examples": least}
    return Rule.read({**rule, **named})
