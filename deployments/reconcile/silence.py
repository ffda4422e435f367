"""Replicas whose health route answers, and nothing else: gateways alone see it."""

from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from deployments import planning, signals
from deployments.choices import ReplicaStatus
from deployments.models import Deployment, Replica
from deployments.reconcile.moves import count_failure, move, step_soon

# With requests open and not one byte for so long, on any gateway. More than an answer that is not
# streamed should take, less than gateways would wait for it.
SILENCE_SECONDS = 300.0


def end_silent(*, now: datetime) -> int:
    """Have the replicas that left their requests unanswered for too long replaced; how many."""
    open_now = signals.read_now()
    if open_now is None:
        return 0
    silent = [each for each, seconds in open_now.silent.items() if seconds >= SILENCE_SECONDS]
    return sum(_end(UUID(replica_id), now=now) for replica_id in silent)


def _end(replica_id: UUID, *, now: datetime) -> bool:
    found = Replica.objects.filter(pk=replica_id).values_list("deployment_id", flat=True).first()
    if found is None:
        return False
    with transaction.atomic():
        Deployment.objects.select_for_update(no_key=True).get(pk=found)
        rows = Replica.objects.select_for_update(no_key=True, of=("self",))
        replica = rows.select_related("node", "variant").get(pk=replica_id)
        if replica.status != ReplicaStatus.READY or not replica.wanted:
            return False
        drain = planning.ServeSettings.read(replica.variant.settings).drain_seconds
        replica.drain_deadline_at = now + timedelta(seconds=drain)
        replica.save(update_fields=["drain_deadline_at"])
        count_failure(replica, now=now)
        message = f"The engine has answered none of its requests for {SILENCE_SECONDS:.0f} s."
        move(replica, ReplicaStatus.DRAINING, now=now, reason="engine_silent", message=message)
        if replica.node is not None:
            step_soon(replica, replica.node)
    return True
