"""What is there, who holds it, what it costs: reading chips' rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Case, Count, F, IntegerField, Q, QuerySet, Sum, Value, When

from accounts.models import Organization
from chips.choices import AcceleratorStatus, NodeStatus
from chips.models import Accelerator, AllocatedSlot, Allocation, Pool, PriceEntry


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator as its holder may use it: its share of the cores and of the memory."""

    index: int  # as the driver counts
    device_id: str
    cores: tuple[int, ...]
    torch_device: str
    visible_devices_variable: str
    memory_bytes: int | None
    whole_memory_bytes: int | None = None  # of the device, whoever holds the rest


@dataclass(frozen=True, kw_only=True)
class PoolUse:
    """How full a pool is, in accelerators; half of a shared one held counts 0.5."""

    pool_name: str
    nodes: int
    nodes_ready: int
    accelerators: int
    accelerators_healthy: int
    accelerators_held: Decimal


def list_pools(organization: Organization) -> QuerySet[Pool]:
    """The pools that an organization may use: open to all, or granted to it."""
    return Pool.objects.filter(Q(is_open=True) | Q(grants__organization=organization)).distinct()


def list_torch_devices(organization: Organization) -> frozenset[str]:
    """What torch calls the accelerators of the pools that an organization may use: cuda, npu ..."""
    present = Accelerator.objects.filter(node__pool__in=list_pools(organization)).exclude(
        status=AcceleratorStatus.GONE
    )
    found = present.order_by().values_list("type__torch_device", flat=True).distinct()
    return frozenset(name.partition(":")[0] for name in found if name)


def get_live_allocation(holder_id: UUID) -> Allocation | None:
    """What the replica or run holds now, or None."""
    return Allocation.objects.filter(holder_id=holder_id, released_at__isnull=True).first()


def list_devices(allocation: Allocation) -> list[Device]:
    """The devices of an allocation, released or not, ordered by index."""
    held: dict[UUID, set[int]] = {}
    for owner, slot in allocation.slots.values_list("accelerator_id", "slot"):
        held.setdefault(owner, set()).add(slot)
    rows = Accelerator.objects.filter(pk__in=held).select_related("type").order_by("index")
    return [_device(row, held[row.pk]) for row in rows]


def _device(row: Accelerator, slots: set[int]) -> Device:
    memory = row.memory_bytes
    return Device(
        index=row.index,
        device_id=row.device_id,
        cores=cores_of_slots(row.cores, slots=slots, of=row.slots),
        torch_device=row.type.torch_device,
        visible_devices_variable=row.type.visible_devices_variable,
        memory_bytes=None if memory is None else memory * len(slots) // row.slots,
        whole_memory_bytes=memory,
    )


def cores_of_slots(cores: Iterable[int], *, slots: Iterable[int], of: int) -> tuple[int, ...]:
    """The cores that go with some of an accelerator's slots: equal parts where there are enough
    cores, and never none where there is one (slots then share a core)."""
    ordered = sorted(cores)
    if not ordered:
        return ()
    chosen: set[int] = set()
    for slot in slots:
        start = slot * len(ordered) // of
        chosen.update(ordered[start : max((slot + 1) * len(ordered) // of, start + 1)])
    return tuple(sorted(chosen))


def list_held_slots(nodes: QuerySet[Any, Any]) -> dict[UUID, set[int]]:
    """The slots held now on some nodes (a query for their ids), by accelerator; one query."""
    held: dict[UUID, set[int]] = {}
    rows = AllocatedSlot.objects.filter(accelerator__node__in=nodes, released_at__isnull=True)
    for owner, slot in rows.values_list("accelerator_id", "slot").order_by():
        held.setdefault(owner, set()).add(slot)
    return held


def get_held_shares(organization: Organization) -> dict[str, Decimal]:
    """Accelerators that an organization holds now, by pool name."""
    live = Allocation.objects.of(organization).filter(released_at__isnull=True).order_by()
    return dict(live.values_list("pool_name").annotate(Sum("accelerator_share")))


def list_pool_use() -> list[PoolUse]:
    """How full every pool is."""
    present = ~Q(nodes__accelerators__status=AcceleratorStatus.GONE)
    healthy = Q(nodes__accelerators__status=AcceleratorStatus.HEALTHY)
    ready = Q(nodes__status=NodeStatus.READY)
    rows = Pool.objects.annotate(
        node_count=Count("nodes", distinct=True),
        ready_count=Count("nodes", distinct=True, filter=ready),
        accelerator_count=Count("nodes__accelerators", distinct=True, filter=present),
        healthy_count=Count("nodes__accelerators", distinct=True, filter=healthy),
    )
    live = Allocation.objects.filter(released_at__isnull=True).order_by()
    held = dict(live.values_list("pool_name").annotate(Sum("accelerator_share")))
    return [
        PoolUse(
            pool_name=row.name,
            nodes=row.node_count,
            nodes_ready=row.ready_count,
            accelerators=row.accelerator_count,
            accelerators_healthy=row.healthy_count,
            accelerators_held=held.get(row.name, Decimal(0)),
        )
        for row in rows
    ]


def price_at(
    *,
    item: str,
    at: datetime,
    organization: Organization,
    accelerator_type_slug: str = "",
    pool_name: str = "",
    model_name: str = "",
    provider_name: str = "",
) -> PriceEntry | None:
    """The most specific price valid at a time, or None where the price book has none.

    An entry for the organization comes before all others; among the rest, the one that names more
    of model, pool and accelerator type; then the one valid from later.
    """
    fits = (
        Q(valid_from__lte=at)
        & (Q(valid_until__isnull=True) | Q(valid_until__gt=at))
        & (Q(organization__isnull=True) | Q(organization=organization))
        & (Q(accelerator_type__isnull=True) | Q(accelerator_type__slug=accelerator_type_slug))
        & (Q(pool__isnull=True) | Q(pool__name=pool_name))
        & Q(model_name__in={"", model_name}, provider_name=provider_name)
    )
    named = (
        _one_if(Q(organization__isnull=False)) * Value(4)
        + _one_if(~Q(model_name=""))
        + _one_if(Q(pool__isnull=False))
        + _one_if(Q(accelerator_type__isnull=False))
    )
    rows = PriceEntry.objects.filter(fits, item=item).annotate(named=named)
    return rows.order_by(F("named").desc(), "-valid_from", "-pk").first()


def _one_if(condition: Q) -> Case:
    return Case(When(condition, then=Value(1)), default=Value(0), output_field=IntegerField())
