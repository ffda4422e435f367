"""From how many replicas are wanted to the rows of as many, and back to a status for people."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Exists, F, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from chips.choices import NodeStatus
from common import jobs
from deployments import adapters, evidence, notify, signals
from deployments.choices import PLACED, ROLLOUT_OPEN, DeploymentStatus, ReplicaStatus
from deployments.models import Deployment, Replica, ReplicaEvent, Rollout, Variant
from deployments.reconcile import attaching, rolling
from deployments.reconcile.moves import LIVE, MAX_FAILURES, move, step_soon

S = ReplicaStatus
D = DeploymentStatus
WORTH = {S.READY: 0, S.STARTING: 1, S.PENDING: 2}  # what is kept when fewer are wanted


def list_unsettled() -> QuerySet[Deployment]:
    """Every deployment that is not yet, or no longer, as it is wanted."""
    live = Q(status__in=LIVE)
    settled = Q(observed_generation=F("generation"), delete_requested_at__isnull=True) & (
        Q(status=D.READY, ready_now=F("desired_replicas"), live_now=F("desired_replicas"))
        & Q(desired_replicas__gt=0)
        | Q(status=D.FAILED, desired_replicas__gt=0, live_now=0)
        | Q(status=D.STOPPED, desired_replicas=0, live_now=0)
    )
    lost = Q(node__status=NodeStatus.LOST) | Q(node__isnull=True, status__in=PLACED)
    rows = Deployment.objects.filter(deleted_at__isnull=True).annotate(
        ready_now=_count(Q(status=S.READY, wanted=True)), live_now=_count(live)
    )
    rolling_now = Rollout.objects.filter(deployment=OuterRef("pk"), status__in=ROLLOUT_OPEN)
    is_lost = Exists(_replicas().filter(live & lost))
    of_itself = Q(host__isnull=True) & ~settled
    return rows.filter(of_itself | adapters.is_out_of_step() | is_lost | Exists(rolling_now))


def _count(which: Q) -> Coalesce:
    rows = _replicas().filter(which).order_by().values("deployment").annotate(n=Count("*"))
    return Coalesce(Subquery(rows.values("n"), output_field=IntegerField()), 0)


def _replicas() -> QuerySet[Replica]:
    return Replica.objects.filter(deployment=OuterRef("pk"))


def reconcile_deployment(
    deployment_id: UUID, *, now: datetime, read_window: evidence.ReadWindow = signals.read_window
) -> bool:
    """One look at a deployment: create what is missing, mark what is too much, say how it is.

    False if it is gone, or if another worker is looking at it right now.
    """
    seen = evidence.gather(deployment_id, now=now, read_window=read_window)
    return _reconcile(deployment_id, seen=seen, now=now)


@transaction.atomic
def _reconcile(deployment_id: UUID, *, seen: evidence.Evidence | None, now: datetime) -> bool:
    rows = Deployment.objects.select_for_update(no_key=True, of=("self",), skip_locked=True)
    deployment = rows.filter(pk=deployment_id, deleted_at__isnull=True).first()
    if deployment is None:
        return False
    if deployment.host is not None:
        _write_down(deployment, *attaching.observe(deployment, deployment.host), now=now)
        return True
    replicas = Replica.objects.select_for_update(no_key=True, of=("self",)).select_related("node")
    live = list(replicas.filter(deployment=deployment, status__in=LIVE).order_by("created_at"))
    for replica in live:
        if replica.status in PLACED and _is_lost(replica):
            where = f"Node {replica.node.name}" if replica.node else "Its node"
            move(replica, S.FAILED, now=now, reason="node_lost", message=f"{where} is lost.")
    live = [replica for replica in live if replica.status in LIVE]
    wanted = rolling.advance(deployment, live, evidence=seen, now=now)
    kept = [_choose(each, live) for each in wanted]
    for replica in live:
        if replica.wanted and not any(replica in mine for mine in kept):
            _unwant(replica, now=now)
    live = [replica for replica in live if replica.status in LIVE]
    for each, mine in zip(wanted, kept, strict=True):
        live += _start_missing(deployment, each, len(mine), now=now)
    _say(deployment, live, now=now)
    return True


def _is_lost(replica: Replica) -> bool:
    return replica.node is None or replica.node.status == NodeStatus.LOST


def _choose(wanted: rolling.Wanted, live: Sequence[Replica]) -> list[Replica]:
    """The replicas that stay wanted: of the right variant, the most useful ones, the oldest."""
    fitting = [
        replica
        for replica in live
        if replica.wanted
        and replica.status in WORTH
        and replica.variant_id == wanted.variant.pk
        and (replica.status == S.READY or not wanted.is_given_up)
    ]
    fitting.sort(key=lambda replica: (WORTH[S(replica.status)], replica.created_at))
    return fitting[: wanted.count]


def _is_failed(deployment: Deployment) -> bool:
    return deployment.failures >= MAX_FAILURES


def _unwant(replica: Replica, *, now: datetime) -> None:
    replica.wanted = False
    replica.save(update_fields=["wanted"])
    if replica.status == S.READY:
        notify.routes_changed()
    if replica.status == S.PENDING:
        move(replica, S.STOPPED, now=now, reason="not_wanted")
    elif replica.node is not None:
        step_soon(replica, replica.node)


def _start_missing(
    deployment: Deployment, wanted: rolling.Wanted, present: int, *, now: datetime
) -> list[Replica]:
    pauses = wanted.next_start_at is not None and wanted.next_start_at > now
    if wanted.is_given_up or pauses:
        return []
    return [_create(deployment, wanted.variant, now=now) for _ in range(wanted.count - present)]


def _create(deployment: Deployment, variant: Variant, *, now: datetime) -> Replica:
    replica = Replica.objects.create(
        deployment=deployment,
        variant=variant,
        revision_id=variant.revision_id,
        generation=deployment.generation,
        status_changed_at=now,
        created_at=now,
    )
    ReplicaEvent.objects.create(replica=replica, at=now, kind=S.PENDING, message="wanted")
    jobs.enqueue("deployments.place_replica", replica_id=str(replica.pk))
    return replica


def _say(deployment: Deployment, live: Sequence[Replica], *, now: datetime) -> None:
    _write_down(deployment, *_observe(deployment, live), now=now)


def _write_down(
    deployment: Deployment, status: DeploymentStatus, reason: str, message: str, *, now: datetime
) -> None:
    deployment.transition(status, now=now, reason=reason, message=message)
    deployment.status_reason, deployment.message = reason, message
    deployment.observed_generation = deployment.generation
    if status == D.DELETED:
        deployment.deleted_at = now
    deployment.save(update_fields=["status_reason", "message", "observed_generation", "deleted_at"])


def _observe(deployment: Deployment, live: Sequence[Replica]) -> tuple[DeploymentStatus, str, str]:
    """Status, reason code and a sentence for people."""
    if deployment.desired_replicas == 0:
        if live:
            return D(deployment.status), "draining", "The last replicas finish open requests."
        if deployment.delete_requested_at is not None:
            return D.DELETED, "deleted", ""
        return D.STOPPED, "none_wanted", ""
    serving = [replica for replica in live if replica.wanted and replica.status == S.READY]
    ready = len(serving)
    if adapters.is_adapter(deployment.revision):
        ready = attaching.count_serving(deployment, serving)
    if ready >= deployment.desired_replicas:
        return D.READY, "all_ready", ""
    status = D.DEGRADED if ready else D.PENDING
    if _is_failed(deployment):
        message = (
            f"{deployment.failures} replicas failed in a row. {_last_failure(deployment)} Look at "
            "the replica's log, mend the cause, then scale the deployment to start it again."
        )
        return D.DEGRADED if ready else D.FAILED, "replicas_failed", message
    waiting = next((each for each in live if each.status == S.PENDING and each.message), None)
    if waiting is not None:
        return status, waiting.status_reason or "waiting", waiting.message
    if deployment.failures:
        message = (
            f"Starting again after {deployment.failures} failures. {_last_failure(deployment)}"
        )
        return status, "starting_again", message
    return status, "starting", f"{ready} of {deployment.desired_replicas} replicas are ready."


def _last_failure(deployment: Deployment) -> str:
    rows = Replica.objects.filter(deployment=deployment, ended_at__isnull=False, status=S.FAILED)
    last = rows.order_by("-ended_at").first()
    return f"The last one: {last.message}" if last is not None and last.message else ""
