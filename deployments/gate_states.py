"""How the gate of a rollout stands, for people and for the API."""

from dataclasses import dataclass
from typing import Any

from deployments import plans
from deployments.models import Rollout
from models_registry.models import Trial
from models_registry.rules import Rule


@dataclass(frozen=True)
class GateState:
    """`status`: waiting, passed, failed, or overridden by an operator. `reasons` say why it is not
    passed, `evidence` what was read, `evaluation_id` which evaluation decides."""

    rule: Rule
    status: str
    reasons: tuple[str, ...] = ()
    message: str = ""
    evaluation_id: str = ""
    evidence: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule.as_json(),
            "status": self.status,
            "reasons": list(self.reasons),
            "message": self.message,
            "evaluation": self.evaluation_id or None,
            "evidence": self.evidence,
        }


def find(rollout: Rollout) -> GateState | None:
    """None where the rollout waits for no evaluation."""
    gate = plans.read_gate(rollout.plan)
    if gate is None:
        return None
    rule, evidence = Rule.read(gate), rollout.verdict_evidence or {}
    if rollout.verdict:
        return GateState(
            rule,
            rollout.verdict,
            reasons=tuple(evidence.get("reasons", ())),
            evaluation_id=str(evidence.get("evaluation", "")),
            evidence={name: value for name, value in evidence.items() if name != "reasons"},
        )
    trial = Trial.objects.filter(asked_by=rollout.pk).first()
    return GateState(
        rule,
        "waiting" if rollout.promote_requested_at is None else "overridden",
        message=trial.message if trial is not None else "",
        evaluation_id=str(trial.evaluation_id or "") if trial is not None else "",
    )
