"""What a new revision must have shown before it is served: read, and held to where no rollout is."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from accounts.models import Organization
from common.errors import DomainError, InvalidInput, NotAllowed
from deployments import plans
from deployments.choices import Verdict
from deployments.models import Deployment, Rollout
from models_registry import gates
from models_registry.gates import GateNotPassed
from models_registry.models import Revision
from models_registry.rules import Rule
from planner.rollout import Plan

MAX_REASON_CHARACTERS = 500


def read_rule(organization: Organization, *layers: Mapping[str, Any]) -> Rule | None:
    """The gate of these plans, whole. Raises NotFound, InvalidInput by field."""
    gate = plans.read_gate(*layers)
    if gate is None:
        return None
    try:
        return gates.complete_rule(organization, gate)
    except DomainError as error:  # the rule's field within the plan
        inner = error.field.removeprefix("rule").lstrip(".")
        error.field = f"plan.gate.{inner}".rstrip(".")
        raise


def check_proven(
    deployment: Deployment, rule: Rule | None, revision: Revision, *, now: datetime
) -> None:
    """Where a revision takes another's place at once, it has to have passed before. Raises
    GateNotPassed."""
    if rule is None:
        return
    seen = gates.judge(
        rule,
        organization=deployment.organization,
        revision=revision,
        holder=deployment.revision,
        now=now,
    )
    if not seen.is_passed:
        raise GateNotPassed(
            f"{deployment} has a gate. {' '.join(seen.reasons)}",
            field="revision",
            remedy=seen.remedy,
            details={"reasons": list(seen.reasons), "evidence": seen.evidence},
        )


def refuse_where_asked(plan: Mapping[str, Any]) -> None:
    """A gate goes by what a revision has shown: there is nothing to go by where it stays. Raises
    InvalidInput where this very rollout was to have one; a standing one is passed over."""
    if plan.get("gate") is not None:
        raise InvalidInput(
            "The change keeps the revision, which is all that a gate goes by.",
            field="plan.gate",
            remedy="Leave it out, or use `is_gated` and give the verdict yourself.",
        )


def without_gate(plan: Plan, *layers: Mapping[str, Any]) -> Plan:
    """The plan as it would be if nobody had asked for a gate."""
    waits = any(layer.get("is_gated") for layer in layers)
    return replace(plan, is_gated=waits, gated_step=plan.gated_step if waits else None)


def check_override(rollout: Rollout, reason: str, *, may_override: bool) -> None:
    """Raises GateNotPassed, NotAllowed, InvalidInput."""
    if rollout.plan.get("gate") is None or rollout.verdict == Verdict.PASSED:
        return
    if not reason.strip():
        raise GateNotPassed(
            f"{rollout} has a gate, which is not passed yet.",
            field="override_reason",
            remedy="Wait for its evaluation, or have an operator give a reason.",
        )
    if not may_override:
        raise NotAllowed(
            "Only operators may go round a gate.",
            field="override_reason",
            remedy="Wait for its evaluation.",
        )
    if len(reason) > MAX_REASON_CHARACTERS:
        raise InvalidInput(
            "The reason is too long.",
            field="override_reason",
            remedy=f"Use at most {MAX_REASON_CHARACTERS} characters.",
        )
