"""Rows to the planner's values and back."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from accounts.models import Quota
from chips import selectors
from chips.choices import AcceleratorStatus, NodeStatus
from chips.models import Accelerator, AcceleratorType, Node, Pool
from planner.placement import AcceleratorRequest, CandidateAccelerator, CandidateNode, CandidatePool

__all__ = ["AcceleratorRequest", "candidate_nodes", "candidate_pools"]

# The platform brings these itself: nothing of them depends on a vendor.
ON_ANY_TORCH_DEVICE = frozenset({"transformers"})
ANYWHERE = frozenset({"fake"})


def candidate_nodes(nodes: Iterable[Node]) -> list[CandidateNode]:
    """The nodes with their accelerators and free slots as they are now: two more queries."""
    rows = list(nodes)
    present = Accelerator.objects.exclude(status=AcceleratorStatus.GONE)
    accelerators = list(present.filter(node__in=rows).select_related("type").order_by("index"))
    held = selectors.list_held_slots(row.pk for row in accelerators)
    by_node: dict[UUID, list[CandidateAccelerator]] = {}
    for row in accelerators:
        by_node.setdefault(row.node_id, []).append(_candidate(row, held.get(row.pk, set())))
    return [
        CandidateNode(
            id=row.pk,
            name=row.name,
            pool_name=row.pool.name,
            is_ready=row.status == NodeStatus.READY,
            is_cordoned=row.cordoned_at is not None,
            accelerators=tuple(by_node.get(row.pk, [])),
        )
        for row in rows
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


def engines_of(row: AcceleratorType) -> frozenset[str]:
    """The engines that run on accelerators of this type."""
    built_in = ANYWHERE | (ON_ANY_TORCH_DEVICE if row.torch_device else frozenset())
    return built_in | frozenset(row.engines)


def _candidate(row: Accelerator, held: set[int]) -> CandidateAccelerator:
    return CandidateAccelerator(
        id=row.pk,
        index=row.index,
        type_slug=row.type.slug,
        torch_device=row.type.torch_device,
        engines=engines_of(row.type),
        memory_bytes=row.memory_bytes,
        slots=row.slots,
        free_slots=frozenset(range(row.slots)) - held,
        is_healthy=row.status == AcceleratorStatus.HEALTHY,
    )
