"""How a replica's status is moved, and what always goes with it. Inside a transaction only.

Locks are taken deployment first, then replica: by `writing` here, by the deployment's reconciler
for all of its replicas.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.db import transaction

from chips import services as chips
from chips.models import Node
from common import jobs, leases
from deployments import notify
from deployments.choices import ROLLOUT_ACTIVE, TERMINAL, ReplicaStatus
from deployments.models import Deployment, Replica, ReplicaEvent, Rollout
from deployments.reconcile import attaching

S = ReplicaStatus
LIVE = frozenset(S) - TERMINAL
MAX_FAILURES = 5  # in a row; then the deployment has failed
STEADY = timedelta(seconds=30)  # a replica that was ready this long ends a row of failures
LONGEST_PAUSE_SECONDS = 60.0
STEP_EXPIRES_SECONDS = 60.0


@contextmanager
def writing(leased: Replica) -> Iterator[Replica]:
    """The leased replica as it is now, it and its deployment locked. Raises leases.LeaseLost."""
    with transaction.atomic():
        Deployment.objects.select_for_update(no_key=True).get(pk=leased.deployment_id)
        with leases.finish(leased) as current:
            yield current


def move(
    replica: Replica, to: ReplicaStatus, *, now: datetime, reason: str, message: str = ""
) -> None:
    """Move the locked replica; write its event and times, release what it held at its end, have
    the deployment looked at and the gateways told."""
    was = replica.status
    if not replica.transition(to, now=now, reason=reason, message=message):
        return
    if to == S.READY:
        replica.ready_at = now
        replica.save(update_fields=["ready_at"])
    if to in TERMINAL:
        replica.ended_at = now
        replica.save(update_fields=["ended_at"])
        attaching.forget(replica)
        if replica.allocation_id is not None:
            chips.release(allocation_id=replica.allocation_id, reason=reason, now=now)
    ReplicaEvent.objects.create(replica=replica, at=now, kind=to, message=message or reason)
    jobs.enqueue("deployments.reconcile", deployment_id=str(replica.deployment_id))
    if S.READY in (was, to):
        notify.routes_changed()


def step_soon(replica: Replica, node: Node) -> None:
    """Have the node's agent look at the replica; it comes round by itself as well."""
    jobs.enqueue(
        "agent.step_replica",
        queue=node.queue,
        expires_seconds=STEP_EXPIRES_SECONDS,
        replica_id=str(replica.pk),
    )


def count_failure(replica: Replica, *, now: datetime) -> None:
    """One more failure in a row for the replica's locked deployment, and the pause that follows.

    A new replica of a rollout counts on the rollout instead: old ones are to be replaced whatever
    becomes of the new.

    A replica that had been ready and died makes the pause longer, and alone never makes its
    deployment give up: its engine is able to start, and nobody may be there to start it again.
    """
    rollouts = Rollout.objects.filter(
        deployment=replica.deployment_id,
        to_variant=replica.variant_id,
        status__in=ROLLOUT_ACTIVE,
    )
    row = rollouts.first() or Deployment.objects.get(pk=replica.deployment_id)
    was_steady = replica.ready_at is not None and now - replica.ready_at >= STEADY
    count = 1 if was_steady else row.failures + 1
    if isinstance(row, Deployment) and replica.ready_at is not None:
        count = min(count, max(row.failures, MAX_FAILURES - 1))
    row.failures = count
    row.next_start_at = now + timedelta(seconds=pause_seconds(row.failures))
    row.save(update_fields=["failures", "next_start_at"])


def pause_seconds(failures: int) -> float:
    """How long to wait before the next start: nothing after one failure, then 2, 4, 8 ... s."""
    return 0.0 if failures <= 1 else min(2.0 ** (failures - 1), LONGEST_PAUSE_SECONDS)
