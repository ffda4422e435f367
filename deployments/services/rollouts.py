"""Changing what a deployment's replicas run, and steering the rollout that follows."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts import audit
from accounts.models import Organization
from common import jobs
from common.errors import DomainError, NotFound
from deployments import plans, variants
from deployments.choices import ROLLOUT_OPEN, RolloutStatus, Verdict
from deployments.models import Deployment, Rollout
from deployments.services import checks, guests, proofs
from deployments.services.deployments import DeploymentIsDeleting, get_revision, take
from deployments.variants import Content


class RolloutIsOver(DomainError):
    """It has ended, or is already on its way back."""

    code = "rollout_is_over"


class NothingToRoll(DomainError):
    """The deployment runs, or is on its way to run, exactly what is asked for."""

    code = "nothing_to_roll"


class NotGated(DomainError):
    """The rollout waits for no verdict."""

    code = "not_gated"


@dataclass(frozen=True, kw_only=True)
class Change:
    """What shall be different; None leaves a part as it is. `settings` are replaced as a whole."""

    revision_id: UUID | None = None
    engine: str | None = None
    slots_per_replica: int | None = None
    accelerators_per_replica: int | None = None
    pool_name: str | None = None
    settings: dict[str, Any] | None = None

    def applied_to(self, content: Content) -> Content:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(content, **given)


@transaction.atomic
def update_deployment(
    *,
    organization: Organization,
    deployment_id: UUID,
    change: Change,
    plan: dict[str, Any] | None = None,
    standing_plan: dict[str, Any] | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Rollout | None:
    """Want the deployment's replicas to run something else; a rollout brings them there.

    The change builds on the newest one that is still on its way, whose rollout then gives way to
    this one's. A change back to what is served ends all of them. `plan` is for this rollout,
    `standing_plan` for this and all later ones. Returns the rollout, or None where nothing is to be
    done, or where an adapter on its host is simply followed by another. Raises NotFound (deployment,
    revision), InvalidInput by field, NotServable, DeploymentIsDeleting, ServedByHost, HostInUse.
    """
    deployment = take(organization, deployment_id)
    if deployment.delete_requested_at is not None:
        raise DeploymentIsDeleting(f"{deployment} is being deleted.")
    _keep_standing_plan(deployment, standing_plan, actor=actor, now=now)
    layers = (deployment.rollout_plan, plan or {})
    whole_plan = plans.read(*layers)
    rule = proofs.read_rule(organization, *layers)
    newest = _newest_going_on(deployment)
    served = Content.of(deployment)
    before = Content.of(newest.to_variant) if newest is not None else served
    after = change.applied_to(before)
    revision = get_revision(organization, after.revision_id)
    checks.check_content(after, revision)
    if after == before:
        return newest
    guests.check_change(deployment, after, revision)
    _record(deployment, "deployment.update", before=before, after=after, actor=actor, now=now)
    if deployment.host_id is not None:
        proofs.check_proven(deployment, rule, revision, now=now)
        guests.change_revision(deployment, revision)
        return None
    if after == served and newest is not None:
        rows = Rollout.objects.filter(deployment=deployment, status__in=ROLLOUT_OPEN)
        rows.filter(abort_requested_at__isnull=True).update(abort_requested_at=now)
        _look_soon(deployment)
        newest.refresh_from_db()
        return newest
    if rule is not None and after.revision_id == served.revision_id:
        proofs.refuse_where_asked(plan or {})
        rule, whole_plan = None, proofs.without_gate(whole_plan, *layers)
    rollout = Rollout.objects.create(
        deployment=deployment,
        number=_next_number(deployment),
        to_variant=variants.ensure(deployment, after, now=now),
        plan=plans.write(whole_plan) | ({"gate": rule.as_json()} if rule is not None else {}),
        requested_by=actor.name[:150],
        status_changed_at=now,
        created_at=now,
    )
    deployment.generation += 1
    deployment.save(update_fields=["generation"])
    _look_soon(deployment)
    return rollout


def _keep_standing_plan(
    deployment: Deployment, plan: dict[str, Any] | None, *, actor: audit.Actor, now: datetime
) -> None:
    if plan is None or plan == deployment.rollout_plan:
        return
    plans.read(plan)
    proofs.read_rule(deployment.organization, plan)
    before, deployment.rollout_plan = deployment.rollout_plan, plan
    deployment.save(update_fields=["rollout_plan"])
    audit.record(
        organization=deployment.organization,
        actor=actor,
        action="deployment.plan_rollouts",
        object_id=deployment.pk,
        object_name=deployment.name,
        before=before,
        after=plan,
        now=now,
    )


def _newest_going_on(deployment: Deployment) -> Rollout | None:
    """The newest that has not been turned back."""
    rows = Rollout.objects.filter(
        deployment=deployment,
        status__in=ROLLOUT_OPEN - {RolloutStatus.ROLLING_BACK},
        abort_requested_at__isnull=True,
    )
    return rows.select_related("to_variant").order_by("-number").first()


def _next_number(deployment: Deployment) -> int:
    last = Rollout.objects.filter(deployment=deployment).order_by("-number").first()
    return last.number + 1 if last is not None else 1


def _record(
    deployment: Deployment,
    action: str,
    *,
    before: Content,
    after: Content,
    actor: audit.Actor,
    now: datetime,
) -> None:
    """Only what differs."""
    was, is_ = before.as_json(), after.as_json()
    names = [name for name in was if was[name] != is_[name]]
    audit.record(
        organization=deployment.organization,
        actor=actor,
        action=action,
        object_id=deployment.pk,
        object_name=deployment.name,
        before={name: was[name] for name in names},
        after={name: is_[name] for name in names},
        now=now,
    )


def _look_soon(deployment: Deployment) -> None:
    jobs.enqueue("deployments.reconcile", deployment_id=str(deployment.pk))


@transaction.atomic
def pause_rollout(
    *,
    organization: Organization,
    rollout_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Rollout:
    """Hold it where it is: weights stay. It still goes back by itself if the new side is worse.

    Pausing twice changes nothing. Raises NotFound, RolloutIsOver.
    """
    rollout = _take_open(organization, rollout_id)
    if rollout.pause_requested_at is None:
        rollout.pause_requested_at = now
        rollout.save(update_fields=["pause_requested_at"])
        _steer(rollout, "rollout.pause", actor=actor, now=now)
    return rollout


@transaction.atomic
def resume_rollout(
    *,
    organization: Organization,
    rollout_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Rollout:
    """Let it go on after a pause. Raises NotFound, RolloutIsOver."""
    rollout = _take_open(organization, rollout_id)
    if rollout.pause_requested_at is not None:
        rollout.pause_requested_at = None
        rollout.save(update_fields=["pause_requested_at"])
        _steer(rollout, "rollout.resume", actor=actor, now=now)
    return rollout


@transaction.atomic
def promote_rollout(
    *,
    organization: Organization,
    rollout_id: UUID,
    override_reason: str = "",
    may_override: bool = False,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Rollout:
    """Skip what is left of steps, bake times, measurements, verdict and pause: the new variant is
    served whole as soon as its replicas are ready. Past a gate that is not passed only operators
    (`may_override`) go, with a reason, which the audit log keeps. Raises NotFound, RolloutIsOver,
    GateNotPassed, NotAllowed."""
    rollout = _take_open(organization, rollout_id)
    if rollout.promote_requested_at is None:
        proofs.check_override(rollout, override_reason, may_override=may_override)
        rollout.promote_requested_at, rollout.pause_requested_at = now, None
        rollout.save(update_fields=["promote_requested_at", "pause_requested_at"])
        shown = {"override_reason": override_reason.strip()} if override_reason.strip() else {}
        _steer(rollout, "rollout.promote", actor=actor, now=now, after=shown)
    return rollout


@transaction.atomic
def abort_rollout(
    *,
    organization: Organization,
    rollout_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Rollout:
    """Back to what was served: weights first, then the new replicas drain.

    Aborting twice changes nothing. Raises NotFound, RolloutIsOver.
    """
    rollout = _take(organization, rollout_id)
    if rollout.abort_requested_at is not None:
        return rollout
    _check_open(rollout)
    rollout.abort_requested_at = now
    rollout.save(update_fields=["abort_requested_at"])
    _steer(rollout, "rollout.abort", actor=actor, now=now)
    return rollout


@transaction.atomic
def give_verdict(
    *,
    organization: Organization,
    rollout_id: UUID,
    verdict: Verdict,
    evidence: dict[str, Any] | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Rollout:
    """Say whether the evaluation that the last step waits for was passed. `evidence` tells what
    was evaluated, for people. Raises NotFound, RolloutIsOver, NotGated."""
    rollout = _take_open(organization, rollout_id)
    if not rollout.plan.get("is_gated") or rollout.plan.get("gate") is not None:
        raise NotGated(
            f"{rollout} waits for no verdict of a person.",
            remedy="Start it with `is_gated` and without `gate` in its plan.",
        )
    rollout.verdict, rollout.verdict_evidence = verdict, evidence or {}
    rollout.save(update_fields=["verdict", "verdict_evidence"])
    _steer(rollout, f"rollout.{verdict}", actor=actor, now=now)
    return rollout


def _take_open(organization: Organization, rollout_id: UUID) -> Rollout:
    rollout = _take(organization, rollout_id)
    _check_open(rollout)
    return rollout


def _take(organization: Organization, rollout_id: UUID) -> Rollout:
    """The rollout with its deployment locked."""
    rows = Rollout.objects.filter(deployment__organization=organization)
    deployment_id = rows.filter(pk=rollout_id).values_list("deployment", flat=True).first()
    if deployment_id is None:
        raise NotFound("No such rollout.")
    deployment = take(organization, deployment_id)
    rollout = rows.select_related("to_variant__revision", "from_variant__revision").get(
        pk=rollout_id
    )
    rollout.deployment = deployment
    return rollout


def _check_open(rollout: Rollout) -> None:
    is_back = rollout.status == RolloutStatus.ROLLING_BACK or rollout.abort_requested_at is not None
    if not rollout.is_open or is_back:
        raise RolloutIsOver(
            f"{rollout} is {rollout.get_status_display().lower()}.",
            remedy="Change the deployment again to start another.",
        )


def _steer(
    rollout: Rollout,
    action: str,
    *,
    actor: audit.Actor,
    now: datetime,
    after: dict[str, Any] | None = None,
) -> None:
    audit.record(
        organization=rollout.deployment.organization,
        actor=actor,
        action=action,
        object_id=rollout.pk,
        object_name=str(rollout),
        after=after or {},
        now=now,
    )
    _look_soon(rollout.deployment)
