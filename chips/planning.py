"""Rows to the planner's values and back."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from django.db.models import QuerySet

from accounts.models import Quota
from chips import selectors
from chips.choices import AcceleratorStatus, NodeStatus
from chips.models import Accelerator, AcceleratorType, Node, Pool
from engines.launchers import LAUNCHERS
from planner.placement import AcceleratorRequest, CandidateAccelerator, CandidateNode, CandidatePool

__all__ = ["AcceleratorRequest", "candidate_nodes", "candidate_pools"]

# The platform brings these itself: nothing of them depends on a vendor.
ON_ANY_TORCH_DEVICE = frozenset({"transformers"})
ANYWHERE = frozenset({"fake"})


def candidate_nodes(nodes: QuerySet[Node]) -> list[CandidateNode]:
    """The nodes with their accelerators and free slots as they are now: four plain queries."""
    rows = list(
        nodes.values_list(
            "pk", "name", "pool__name", "status", "cordoned_at", "facts__engines"
        ).order_by()
    )
    installed = {row[0]: frozenset(row[5]) for row in rows if isinstance(row[5], dict)}
    accelerators = _candidate_accelerators(nodes, installed)
    return [
        CandidateNode(
            id=pk,
            name=name,
            pool_name=pool_name,
            is_ready=status == NodeStatus.READY,
            is_cordoned=cordoned_at is not None,
            engines=installed.get(pk),
            accelerators=tuple(accelerators.get(pk, ())),
        )
        for pk, name, pool_name, status, cordoned_at, _engines in rows
    ]


def candidate_pools(
    pools: Iterable[Pool], *, quotas: Iterable[Quota], held: Mapping[str, Decimal]
) -> list[CandidatePool]:
    """The pools with what the organization's quotas leave in each; `held` is by pool name."""
    limits = {quota.pool_name: quota.max_accelerators for quota in quotas}
    everywhere = sum(held.values(), Decimal(0))
    found = []
    for pool in pools:
        left = []
        if "" in limits:
            left.append(limits[""] - everywhere)
        if pool.name in limits:
            left.append(limits[pool.name] - held.get(pool.name, Decimal(0)))
        found.append(
            CandidatePool(name=pool.name, accelerators_left=Fraction(min(left)) if left else None)
        )
    return found


def engines_of(*, torch_device: str, engines: Iterable[str]) -> frozenset[str]:
    """The engines that run on accelerators of a type."""
    built_in = ANYWHERE | (ON_ANY_TORCH_DEVICE if torch_device else frozenset())
    return built_in | frozenset(engines)


def _candidate_accelerators(
    nodes: QuerySet[Node], installed: Mapping[UUID, frozenset[str]]
) -> dict[UUID, list[CandidateAccelerator]]:
    """By node, in the order of their indexes. Values, not rows: there may be thousands.

    An engine that an operator described runs on whatever its node has: no data sheet knows it.
    """
    described = {pk: engines - LAUNCHERS.keys() for pk, engines in installed.items()}
    ours = nodes.order_by().values("pk")
    present = Accelerator.objects.exclude(status=AcceleratorStatus.GONE).filter(node__in=ours)
    rows = list(
        present.order_by("index").values_list(
            "pk", "node_id", "type_id", "index", "memory_bytes", "slots", "status"
        )
    )
    held = selectors.list_held_slots(ours)
    types = {
        pk: (slug, device, engines_of(torch_device=device, engines=engines))
        for pk, slug, device, engines in AcceleratorType.objects.values_list(
            "pk", "slug", "torch_device", "engines"
        )
    }
    found: dict[UUID, list[CandidateAccelerator]] = {}
    for pk, node_id, type_id, index, memory_bytes, slots, status in rows:
        slug, torch_device, engines = types[type_id]
        every = frozenset(range(slots))
        candidate = CandidateAccelerator(
            id=pk,
            index=index,
            type_slug=slug,
            torch_device=torch_device,
            engines=engines | described.get(node_id, frozenset()),
            memory_bytes=memory_bytes,
            slots=slots,
            free_slots=every - held[pk] if pk in held else every,
            is_healthy=status == AcceleratorStatus.HEALTHY,
        )
        found.setdefault(node_id, []).append(candidate)
    return found
