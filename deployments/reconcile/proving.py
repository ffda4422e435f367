"""The gate of a rollout: what its new revision must have shown before it is trusted with requests.

Called with the deployment locked. Where an evaluation is already there, it decides; where none is,
one is asked for (a `Trial`, carried out by whoever evaluates) once a new replica is ready, through
names of their own for both sides (side_routes.py). What comes of it is a verdict on the rollout's
row: the planner lets it go on or turns it back. `models_registry.gates.judge` alone says which.
"""

from datetime import datetime, timedelta
from typing import cast

from deployments import plans, side_routes
from deployments.choices import Verdict
from deployments.models import Rollout, RolloutEvent, Variant
from models_registry import gates
from models_registry.choices import TRIAL_OVER, TrialStatus
from models_registry.gates import Judgement
from models_registry.models import Revision, Trial
from models_registry.rules import Rule

T = TrialStatus


def rule_of(rollout: Rollout) -> Rule | None:
    gate = plans.read_gate(rollout.plan)
    return Rule.read(gate) if gate is not None else None


def settle(rollout: Rollout, *, is_new_ready: bool, now: datetime) -> None:
    """One look at the gate of a rollout that has begun: its verdict, or an evaluation asked for."""
    rule = rule_of(rollout)
    if rule is None or rollout.verdict:
        return
    if rollout.turned_back or rollout.promote_requested_at is not None:
        drop(rollout, now=now)
        return
    holder = cast(Variant, rollout.from_variant).revision  # it has begun
    seen = _judge(rollout, rule, holder, now=now)
    trial = Trial.objects.filter(asked_by=rollout.pk).first()
    if seen.is_passed is not None:
        _give(rollout, seen, now=now)
    elif trial is None:
        if is_new_ready:
            _ask(rollout, rule, holder, now=now)
    elif (reasons := _hopeless(rollout, trial, seen, now=now)) is not None:
        evidence = {"evaluation": str(trial.evaluation_id)} if trial.evaluation_id else None
        _give(rollout, Judgement(False, reasons, seen.remedy, evidence), now=now)


def lacks_proof(rollout: Rollout, *, holder: Revision, now: datetime) -> bool:
    """Whether a rollout that has not begun has a gate that it has not passed yet."""
    rule = rule_of(rollout)
    if rule is None or rollout.promote_requested_at is not None:
        return False
    seen = _judge(rollout, rule, holder, now=now)
    if seen.is_passed:
        _give(rollout, seen, now=now)
    return not seen.is_passed


def drop(rollout: Rollout, *, now: datetime) -> None:
    """Nobody waits for its evaluation any more."""
    rows = Trial.objects.filter(asked_by=rollout.pk, cancel_requested_at__isnull=True)
    rows.exclude(status__in=TRIAL_OVER).update(cancel_requested_at=now)


def waiting_message(rollout: Rollout) -> str:
    """What the gate waits for, for people."""
    if rule_of(rollout) is None:
        return ""
    trial = Trial.objects.filter(asked_by=rollout.pk).first()
    if trial is None:
        return "A new replica has to be ready before it can be evaluated."
    if trial.status == T.WANTED:
        return "Its evaluation has been asked for and has not begun."
    return trial.message or "Its evaluation is under way."


def reasons_of(rollout: Rollout) -> str:
    return " ".join(rollout.verdict_evidence.get("reasons", []))


def tell(rollout: Rollout, kind: str, message: str, now: datetime) -> None:
    """An event on the rollout's page."""
    RolloutEvent.objects.create(rollout=rollout, at=now, kind=kind, message=message)


def _judge(rollout: Rollout, rule: Rule, holder: Revision, *, now: datetime) -> Judgement:
    return gates.judge(
        rule,
        organization=rollout.deployment.organization,
        revision=rollout.to_variant.revision,
        holder=holder,
        now=now,
    )


def _give(rollout: Rollout, seen: Judgement, *, now: datetime) -> None:
    rollout.verdict = Verdict.PASSED if seen.is_passed else Verdict.FAILED
    rollout.verdict_evidence = (seen.evidence or {}) | {"reasons": list(seen.reasons)}
    rollout.save(update_fields=["verdict", "verdict_evidence"])
    shown = ", ".join(
        f"{name} {value:.4g}"
        for name, value in rollout.verdict_evidence.get("metrics", {}).items()
        if value is not None
    )
    tell(rollout, f"gate_{rollout.verdict}", " ".join(seen.reasons) or shown, now)


def _ask(rollout: Rollout, rule: Rule, holder: Revision, *, now: datetime) -> None:
    compares = rule.compares and holder.pk != rollout.to_variant.revision_id
    new, old = side_routes.names_of(rollout)
    Trial.objects.create(
        organization=rollout.deployment.organization,
        asked_by=rollout.pk,
        asked_name=str(rollout)[:200],
        rule=rule.as_json(),
        revision=rollout.to_variant.revision,
        model_name=new,
        holder_name=old if compares else "",
        status_changed_at=now,
        created_at=now,
    )
    beside = f" and {holder}" if compares else ""
    said = f"{rollout.to_variant.revision}{beside} will be asked {rule.place}."
    tell(rollout, "gate_evaluation", said, now)


def _hopeless(
    rollout: Rollout, trial: Trial, seen: Judgement, *, now: datetime
) -> tuple[str, ...] | None:
    """Why nothing will come of the evaluation; None while something may."""
    if trial.status in (T.FAILED, T.CANCELLED):
        return (f"Its evaluation came to nothing: {trial.message or trial.status_reason}.",)
    if trial.status == T.FINISHED:
        return seen.reasons
    patience = timedelta(seconds=plans.read(rollout.plan).deadline_seconds)
    if trial.status == T.WANTED and now - trial.created_at > patience:
        return ("Nobody has begun its evaluation.",)
    return None
