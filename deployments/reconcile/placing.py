"""Finding accelerators for a replica, and giving back what a killed worker left held."""

from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet

from chips import services as chips
from chips.choices import Purpose
from chips.models import Allocation
from common import leases
from common.errors import DomainError
from deployments import planning
from deployments.choices import ReplicaStatus
from deployments.models import Replica
from deployments.reconcile.moves import LIVE, move, step_soon, writing

S = ReplicaStatus


def list_waiting() -> QuerySet[Replica]:
    """Replicas without accelerators, those that wait longest first."""
    return Replica.objects.filter(status=S.PENDING, wanted=True).order_by("created_at")


def place_replica(replica_id: UUID, *, now: datetime) -> bool:
    """Hold accelerators for a pending replica and hand it to its node's agent; true if it moved.

    Where nothing fits the replica stays pending, and its message says why.
    """
    replica = leases.take(list_waiting(), replica_id, now=now)
    if replica is None:
        return False
    deployment = replica.deployment
    try:
        allocation = chips.allocate(
            organization=deployment.organization,
            purpose=Purpose.SERVING,
            holder_id=replica.pk,
            holder_name=str(replica),
            subject_name=deployment.name,
            request=planning.accelerator_request(replica.variant),
            now=now,
        )
    except DomainError as refusal:
        _wait(replica, refusal)
        return False
    with writing(replica) as current:
        if current.status != S.PENDING or not current.wanted or allocation.node is None:
            chips.release(allocation_id=allocation.pk, reason="not_wanted", now=now)
            return False
        current.allocation, current.node = allocation, allocation.node
        current.address, current.placed_at = allocation.node.address, now
        current.save(update_fields=["allocation", "node", "address", "placed_at"])
        move(current, S.STARTING, now=now, reason="placed", message=f"on {allocation.node_name}")
        step_soon(current, allocation.node)
    return True


def _wait(replica: Replica, refusal: DomainError) -> None:
    lines = refusal.details if isinstance(refusal.details, list) else []
    reasons = [f"{line['pool']}: {line['message']}" for line in lines if len(lines) > 1]
    message = " ".join([refusal.message, *(f"{reason}." for reason in reasons), refusal.remedy])
    with writing(replica) as current:
        if (current.message, current.status_reason) != (message, refusal.code):
            current.message, current.status_reason = message, refusal.code
            current.save(update_fields=["message", "status_reason"])


def release_leftovers(*, now: datetime) -> int:
    """Give back what is held for replicas that have ended; returns how many allocations.

    Normally none: an end and its release are one transaction. This is for a worker that was
    killed between holding accelerators and writing that the replica has them.
    """
    live = Replica.objects.filter(status__in=LIVE).values("pk")
    rows = Allocation.objects.filter(purpose=Purpose.SERVING, released_at__isnull=True)
    left = list(rows.exclude(holder_id__in=live).values_list("pk", flat=True))
    return sum(chips.release(allocation_id=pk, reason="leftover", now=now) for pk in left)
