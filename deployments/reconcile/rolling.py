"""Rollouts: from what people want and gateways measure to how many replicas of which variant.

Called with the deployment locked. The row alone says where a rollout stands, so that another
worker, or the same after a restart, goes on from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

from accounts import audit
from deployments import adapters, notify, plans, variants
from deployments.choices import ROLLOUT_OPEN, ReplicaStatus, RolloutStatus
from deployments.evidence import Evidence
from deployments.models import Deployment, Replica, Rollout, Variant
from deployments.reconcile import attaching, proving
from deployments.reconcile.moves import MAX_FAILURES
from planner import rollout as planner

S = ReplicaStatus
R = RolloutStatus
ENDS = {"aborted": R.ABORTED, "deleted": R.ABORTED, "superseded": R.SUPERSEDED}
SAID = {
    "aborted": "A person stopped it.",
    "deleted": "The deployment is being deleted.",
    "superseded": "A newer change takes its place.",
}


@dataclass(frozen=True)
class Wanted:
    """So many replicas of a variant; no new ones before `next_start_at`."""

    variant: Variant
    count: int
    next_start_at: datetime | None
    is_given_up: bool = False  # after failures: those that are ready stay, none is started


def advance(
    deployment: Deployment,
    live: Sequence[Replica],
    *,
    evidence: Evidence | None,
    now: datetime,
) -> list[Wanted]:
    """Take the deployment's rollouts one look further; what is wanted of each variant after it."""
    rows = Rollout.objects.filter(deployment=deployment, status__in=ROLLOUT_OPEN)
    rows = rows.select_related("to_variant__revision", "from_variant__revision")
    rollouts = sorted(rows, key=lambda row: row.number)
    _drop_outdated(deployment, rollouts, now=now)
    for rollout in rollouts:  # at most one is active; behind it at most one is pending
        if rollout.is_open:
            rollout.deployment = deployment
            wanted = _look(rollout, live, evidence=evidence, now=now)
            if wanted is not None:
                return wanted
    served = variants.ensure_served(deployment, now=now)
    return [_of_deployment(deployment, served, deployment.desired_replicas)]


def _of_deployment(deployment: Deployment, variant: Variant, count: int) -> Wanted:
    is_given_up = deployment.failures >= MAX_FAILURES
    return Wanted(variant, count, deployment.next_start_at, is_given_up=is_given_up)


def _drop_outdated(deployment: Deployment, rollouts: Sequence[Rollout], *, now: datetime) -> None:
    """Those that never began and shall not: all but the newest, or all if the deployment goes."""
    for rollout in rollouts:
        if rollout.status != R.PENDING:
            continue
        if deployment.delete_requested_at is not None:
            _end(rollout, R.ABORTED, reason="deleted", now=now)
        elif rollout.abort_requested_at is not None:
            _end(rollout, R.ABORTED, reason="aborted", now=now)
        elif rollout is not rollouts[-1]:
            _end(rollout, R.SUPERSEDED, reason="superseded", now=now)


def _look(
    rollout: Rollout,
    live: Sequence[Replica],
    *,
    evidence: Evidence | None,
    now: datetime,
) -> list[Wanted] | None:
    """What is wanted while it is on its way; None once it has ended."""
    deployment = rollout.deployment
    if rollout.status == R.PENDING and not _begin(rollout, live, now=now):
        return None
    _hear(rollout, now=now)
    proving.settle(rollout, is_new_ready=_has_ready(live, rollout.to_variant_id), now=now)
    sight = _sight(rollout, live, evidence=evidence, now=now)
    seen = planner.decide(plans.read(rollout.plan), sight)
    _write(rollout, sight, seen, live, now=now)
    if seen.is_complete:
        _adopt(rollout, now=now)
        _end(rollout, R.COMPLETED, reason="completed", now=now)
        return None
    if seen.is_back:
        _end_back(rollout, now=now)
        return None
    old = cast(Variant, rollout.from_variant)  # it has begun
    return [
        _of_deployment(deployment, old, seen.old_wanted),
        Wanted(rollout.to_variant, seen.new_wanted, rollout.next_start_at),
    ]


def _begin(rollout: Rollout, live: Sequence[Replica], *, now: datetime) -> bool:
    """False if there is nothing to roll: then the change holds at once, and it has ended."""
    deployment = rollout.deployment
    served = variants.ensure_served(deployment, now=now)
    is_answering = bool(_answering(deployment, _of(live, served.pk), _loaded(live)))
    if rollout.to_variant_id == served.pk:
        _end(rollout, R.COMPLETED, reason="served_already", now=now)
        return False
    is_served = is_answering and deployment.desired_replicas > 0
    if not is_served and not proving.lacks_proof(rollout, holder=served.revision, now=now):
        _adopt(rollout, now=now)
        _end(rollout, R.COMPLETED, reason="nothing_served", now=now)
        return False
    rollout.from_variant = served
    rollout.began_at = rollout.progressed_at = now
    rollout.save(update_fields=["from_variant", "began_at", "progressed_at"])
    rollout.transition(R.PROGRESSING, now=now, reason="began")
    proving.tell(
        rollout, "began", f"From variant {served.number} to {rollout.to_variant.number}.", now
    )
    return True


def _hear(rollout: Rollout, *, now: datetime) -> None:
    """What people have asked for since the last look."""
    if rollout.status == R.PROGRESSING and rollout.pause_requested_at is not None:
        rollout.transition(R.PAUSED, now=rollout.pause_requested_at, reason="paused")
        proving.tell(rollout, "paused", "", now)
    elif rollout.status == R.PAUSED and rollout.pause_requested_at is None:
        pause = now - (rollout.status_changed_at or now)
        for name in ("step_entered_at", "progressed_at"):
            if getattr(rollout, name) is not None:
                setattr(rollout, name, getattr(rollout, name) + pause)
        rollout.save(update_fields=["step_entered_at", "progressed_at"])
        rollout.transition(R.PROGRESSING, now=now, reason="resumed")
        proving.tell(rollout, "resumed", "", now)
    reason = _asked_back(rollout)
    if reason and not rollout.turned_back:
        rollout.turned_back, rollout.progressed_at = reason, now
        rollout.save(update_fields=["turned_back", "progressed_at"])
        rollout.transition(R.ROLLING_BACK, now=now, reason=reason, message=SAID[reason])
        proving.tell(rollout, "turned_back", SAID[reason], now)


def _asked_back(rollout: Rollout) -> str:
    if rollout.deployment.delete_requested_at is not None:
        return "deleted"
    if rollout.abort_requested_at is not None:
        return "aborted"
    later = Rollout.objects.filter(deployment=rollout.deployment_id, number__gt=rollout.number)
    return "superseded" if later.filter(status=R.PENDING).exists() else ""


def _sight(
    rollout: Rollout, live: Sequence[Replica], *, evidence: Evidence | None, now: datetime
) -> planner.Sight:
    if evidence is None or evidence.rollout_id != rollout.pk:  # asked before this rollout was
        evidence = Evidence(rollout.pk, planner.Traffic(), planner.Traffic(), is_measured=False)
    is_paused = rollout.status == R.PAUSED
    still = rollout.status_changed_at if is_paused else None
    loaded = _loaded(live)
    fresh, before = _of(live, rollout.to_variant_id), _of(live, rollout.from_variant_id)
    coming, going = (before, fresh) if rollout.turned_back else (fresh, before)
    answering = _answering(rollout.deployment, going, loaded)
    answering += _answering(rollout.deployment, coming, loaded, beside=answering)
    new = _side(fresh, answering, evidence.new)
    has_moved = new.ready > rollout.most_ready
    return planner.Sight(
        wanted=rollout.deployment.desired_replicas,
        old=_side(before, answering, evidence.old),
        new=new,
        step=rollout.step,
        weight=rollout.weight,
        baked_seconds=_seconds(rollout.step_entered_at, still or now),
        stalled_seconds=0.0 if has_moved else _seconds(rollout.progressed_at, still or now),
        has_been_ready=new.ready > 0 or rollout.most_ready > 0,
        failures=rollout.failures,
        is_measured=evidence.is_measured,
        is_paused=is_paused,
        is_promoted=rollout.promote_requested_at is not None,
        gate=rollout.verdict,
        turned_back=rollout.turned_back,
    )


def _of(live: Sequence[Replica], variant_id: object) -> list[Replica]:
    """The variant's replicas that are not being let go."""
    mine = [each for each in live if each.wanted and each.variant_id == variant_id]
    return [each for each in mine if each.status in (S.PENDING, S.STARTING, S.READY)]


def _has_ready(live: Sequence[Replica], variant_id: object) -> bool:
    return any(each.status == S.READY for each in _of(live, variant_id))


def _loaded(live: Sequence[Replica]) -> dict[UUID, set[UUID]]:
    return attaching.list_loaded([each for each in live if each.status == S.READY])


def _answering(
    deployment: Deployment,
    replicas: Sequence[Replica],
    loaded: Mapping[UUID, set[UUID]],
    *,
    beside: Sequence[Replica] = (),
) -> list[Replica]:
    """Those that answer for the deployment: an adapter's once they have it loaded. With `beside`,
    also for every adapter that one of those answers for, so that they can take their place."""
    needed = {deployment.pk} if adapters.is_adapter(deployment.revision) else set()
    needed = needed.union(*(loaded.get(each.pk, set()) for each in beside))
    ready = [each for each in replicas if each.status == S.READY]
    return [each for each in ready if needed <= loaded.get(each.pk, set())]


def _side(
    live: Sequence[Replica], answering: Sequence[Replica], traffic: planner.Traffic
) -> planner.Side:
    ready = sum(each in answering for each in live)
    return planner.Side(live=len(live), ready=ready, traffic=traffic)


def _seconds(since: datetime | None, until: datetime) -> float:
    return max(0.0, (until - since).total_seconds()) if since is not None else 0.0


def _write(
    rollout: Rollout,
    sight: planner.Sight,
    seen: planner.Decision,
    live: Sequence[Replica],
    *,
    now: datetime,
) -> None:
    """The row after a look; gateways are told where weights changed."""
    weight_was, step_was = rollout.weight, rollout.step
    rollout.weight, rollout.step, rollout.waits_for = seen.weight, seen.step, seen.waits_for
    rollout.old_ready, rollout.new_ready = sight.old.ready, sight.new.ready
    if rollout.new_ready > rollout.most_ready:
        rollout.most_ready, rollout.progressed_at = rollout.new_ready, now
    if seen.step != step_was:
        rollout.step_entered_at = rollout.progressed_at = now
    if sight.is_measured:
        sides = {"old": asdict(sight.old.traffic), "new": asdict(sight.new.traffic)}
        rollout.measured = sides
    waiting = _waiting_message(rollout, live)
    if seen.waits_for == "gate":
        waiting = proving.waiting_message(rollout)
    if not rollout.turned_back and not seen.turn_back:
        rollout.message = waiting
    if seen.turn_back:
        rollout.turned_back, rollout.progressed_at = seen.turn_back, now
    rollout.save()
    if seen.step != step_was and not seen.is_complete:
        proving.tell(rollout, "step", f"{seen.weight} % of the requests go to new replicas.", now)
    if seen.turn_back:
        last = waiting if seen.turn_back == "deadline" else _last_failure(rollout)
        message = f"{seen.message} {last}".strip()
        rollout.transition(R.ROLLING_BACK, now=now, reason=seen.turn_back, message=message)
        proving.tell(rollout, "turned_back", message, now)
    if seen.weight != weight_was:
        notify.routes_changed()


def _waiting_message(rollout: Rollout, live: Sequence[Replica]) -> str:
    """Why new replicas do not start or answer, for people."""
    for each in live:
        if each.variant_id == rollout.to_variant_id and each.status == S.PENDING and each.message:
            plan = plans.read(rollout.plan)
            way = (
                ' Where there is no room beside the old replicas, roll out with strategy "replace".'
            )
            return each.message + (way if plan.max_surge else "")
    mine = [each.pk for each in _of(live, rollout.to_variant_id)]
    return attaching.find_refusal(mine)


def _last_failure(rollout: Rollout) -> str:
    if rollout.turned_back == "gate_failed":
        return proving.reasons_of(rollout)
    if rollout.turned_back != "crash_loop":
        return ""
    rows = Replica.objects.filter(
        deployment=rollout.deployment, variant=rollout.to_variant, status=S.FAILED
    )
    last = rows.exclude(message="").order_by("-ended_at").first()
    return f"The last one: {last.message}" if last is not None else ""


def _adopt(rollout: Rollout, *, now: datetime) -> None:
    """From now on the new variant is what the deployment serves."""
    deployment, variant = rollout.deployment, rollout.to_variant
    deployment.revision = variant.revision
    deployment.engine = variant.engine
    deployment.slots_per_replica = variant.slots_per_replica
    deployment.accelerators_per_replica = variant.accelerators_per_replica
    deployment.pool_name = variant.pool_name
    deployment.settings = variant.settings
    deployment.failures, deployment.next_start_at = 0, None
    deployment.save(
        update_fields=[
            "revision",
            "engine",
            "slots_per_replica",
            "accelerators_per_replica",
            "pool_name",
            "settings",
            "failures",
            "next_start_at",
        ]
    )
    notify.routes_changed()


def _end_back(rollout: Rollout, *, now: datetime) -> None:
    reason, message = rollout.status_reason, rollout.message
    status = ENDS.get(rollout.turned_back, R.ROLLED_BACK)
    _end(rollout, status, reason=reason, message=message, now=now)
    if status == R.ROLLED_BACK:  # nobody asked: who reads the log shall find it
        audit.record(
            organization=rollout.deployment.organization,
            actor=audit.SYSTEM,
            action="deployment.roll_back",
            object_id=rollout.deployment_id,
            object_name=rollout.deployment.name,
            after={"rollout": rollout.number, "reason": rollout.turned_back, "message": message},
            now=now,
        )


def _end(
    rollout: Rollout, status: RolloutStatus, *, reason: str, now: datetime, message: str = ""
) -> None:
    proving.drop(rollout, now=now)
    rollout.ended_at, rollout.waits_for = now, ""
    rollout.save(update_fields=["ended_at", "waits_for"])
    rollout.transition(status, now=now, reason=reason, message=message or SAID.get(reason, ""))
    proving.tell(rollout, status, rollout.message, now)
    notify.routes_changed()
