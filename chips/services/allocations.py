"""Holding accelerators and giving them back."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from accounts.models import Organization, Quota
from chips import planning, selectors
from chips.models import AllocatedSlot, Allocation, Node
from common.errors import DomainError
from planner import placement
from planner.placement import AcceleratorRequest, Placement, Refusal

ATTEMPTS = 6  # each time somebody else was quicker; the last one locks every node and is exact


class NothingFits(DomainError):
    """No node can take the request now; `details` has one line a pool and filter.

    `is_passing` tells a request that may wait from one that must change.
    """

    code = "nothing_fits"

    def __init__(self, refusal: Refusal) -> None:
        lines = refusal.by_pool()
        first = f": {lines[0]['message']}" if len(lines) == 1 else ""
        super().__init__(
            f"Nothing fits{first or ', see details for the reason in each pool'}.",
            remedy=(
                "Wait until accelerators are free, or ask for less."
                if refusal.is_passing
                else "Ask for less, another pool or another engine, or have nodes added."
            ),
            details=list(lines),
        )
        self.is_passing = refusal.is_passing


def allocate(
    *,
    organization: Organization,
    purpose: str,
    holder_id: UUID,
    holder_name: str,
    subject_name: str = "",
    request: AcceleratorRequest,
    now: datetime,
) -> Allocation:
    """Hold accelerators for a replica or a run: all of the request on one node, or NothingFits.

    Idempotent by holder: one that holds something already gets that. Short: it decides on rows as
    they are, locks the chosen node, looks again and writes; a partial unique index forbids a second
    holder of a slot whatever happens here. Call it outside of a transaction.
    """
    for attempt in range(1, ATTEMPTS + 1):
        live = selectors.get_live_allocation(holder_id)
        if live is not None:
            return live
        try:
            with transaction.atomic():
                chosen = _choose(organization, request, exact=attempt == ATTEMPTS)
                if chosen is None:
                    continue
                row = Allocation.objects.create(
                    organization=organization,
                    purpose=purpose,
                    holder_id=holder_id,
                    holder_name=holder_name[:200],
                    subject_name=subject_name[:200],
                    node_id=chosen.node_id,
                    node_name=chosen.node_name,
                    pool_name=chosen.pool_name,
                    accelerator_type_slug=chosen.type_slug,
                    accelerator_share=_decimal(chosen),
                    held_at=now,
                )
                AllocatedSlot.objects.bulk_create(
                    AllocatedSlot(allocation=row, accelerator_id=owner, slot=slot)
                    for owner, slot in chosen.slots
                )
                return row
        except IntegrityError:  # the same holder in another process, or an accelerator removed
            if attempt == ATTEMPTS:
                raise
    raise RuntimeError("unreachable: the last attempt returns or raises")


@transaction.atomic
def release(*, allocation_id: UUID, reason: str, now: datetime) -> bool:
    """Give the accelerators back; False if that was done before. The row stays, to be billed."""
    live = Allocation.objects.filter(pk=allocation_id, released_at__isnull=True)
    at = Greatest(F("held_at"), Value(now))  # clocks of two machines may differ
    if not live.update(released_at=at, release_reason=reason[:64]):
        return False
    slots = AllocatedSlot.objects.filter(allocation=allocation_id, released_at__isnull=True)
    slots.update(released_at=now)
    return True


def _choose(
    organization: Organization, request: AcceleratorRequest, *, exact: bool
) -> Placement | None:
    """A placement on a node that is locked from here to the end of the transaction.

    None if the node filled up while we waited for its lock. `exact` locks every node beforehand, in
    one order: then nothing can change between looking and writing. Locks are taken quotas first,
    then nodes, and no one else waits for a node while holding another.
    """
    quotas = list(Quota.objects.of(organization).select_for_update(no_key=True).order_by("pk"))
    held = selectors.get_held_shares(organization) if quotas else {}
    rows = list(selectors.list_pools(organization))
    pools = planning.candidate_pools(rows, quotas=quotas, held=held)
    nodes = Node.objects.filter(pool__in=rows)
    if exact:
        _lock(nodes.values_list("pk", flat=True))
    answer = placement.place(request, pools=pools, nodes=planning.candidate_nodes(nodes))
    if isinstance(answer, Refusal):
        raise NothingFits(answer)
    if exact:
        return answer
    _lock([answer.node_id])
    nodes = nodes.filter(pk=answer.node_id)
    again = placement.place(request, pools=pools, nodes=planning.candidate_nodes(nodes))
    return again if isinstance(again, Placement) else None


def _lock(nodes: Iterable[UUID]) -> None:
    rows = Node.objects.filter(pk__in=nodes).order_by("pk").select_for_update(no_key=True)
    list(rows.values_list("pk"))


def _decimal(chosen: Placement) -> Decimal:
    share = Decimal(chosen.share.numerator) / Decimal(chosen.share.denominator)
    return share.quantize(Decimal("0.0001"))
