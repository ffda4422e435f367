"""Where a request for accelerators fits: filters, then scores, and an explanation if it does not.

Pure: candidates come in as values, the answer goes out as one. All accelerators of a placement are
of one type on one node, or there is no placement (gang).
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from uuid import UUID


class Filter(enum.StrEnum):
    """Why a node was refused; a node's reason is the last filter that its best group reached."""

    UNKNOWN_POOL = "unknown_pool"
    OTHER_POOL = "other_pool"
    OTHER_NODE = "other_node"
    NOT_GRANTED = "not_granted"
    EMPTY = "empty"
    NOT_READY = "not_ready"
    CORDONED = "cordoned"
    TORCH_DEVICE = "torch_device"
    ENGINE = "engine"
    NOT_INSTALLED = "not_installed"
    MEMORY = "memory"
    TOO_FEW = "too_few"
    UNHEALTHY = "unhealthy"
    QUOTA = "quota"
    BUSY = "busy"


ORDER = {name: rank for rank, name in enumerate(Filter)}
# Reasons that pass without anybody changing the request: it may wait for them.
PASSING = frozenset(
    {Filter.EMPTY, Filter.NOT_READY, Filter.CORDONED, Filter.UNHEALTHY, Filter.QUOTA, Filter.BUSY}
)


@dataclass(frozen=True, kw_only=True)
class AcceleratorRequest:
    """What is asked for: `accelerators` whole ones, or `slots` of one where `accelerators` is 0.

    `memory_bytes` is for all of it together, and taken to spread evenly over the accelerators.
    None leaves a wish open. `avoid_accelerators` is a preference: they are taken if nothing else
    is free. Raises ValueError for a request that asks for nothing, or for both.
    """

    accelerators: int = 0
    slots: int = 0
    memory_bytes: int | None = None
    pool_name: str | None = None
    node_id: UUID | None = None  # this node or none
    engine: str | None = None
    torch_devices: frozenset[str] | None = None
    avoid_accelerators: frozenset[UUID] = frozenset()

    def __post_init__(self) -> None:
        if self.accelerators < 0 or self.slots < 0:
            raise ValueError("accelerators and slots are not negative")
        if (self.accelerators > 0) == (self.slots > 0):
            raise ValueError("ask for whole accelerators, or for slots of one: one of the two")


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateAccelerator:
    """One device as it is now. `free_slots` are the numbers, from 0 to `slots` - 1, held by none."""

    id: UUID
    index: int
    type_slug: str
    torch_device: str = ""
    engines: frozenset[str] = frozenset()
    memory_bytes: int | None = None
    slots: int = 1
    free_slots: frozenset[int] = frozenset({0})
    is_healthy: bool = True

    @property
    def is_free(self) -> bool:
        return len(self.free_slots) == self.slots


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateNode:
    """One node as it is now."""

    id: UUID
    name: str
    pool_name: str
    is_ready: bool = True
    is_cordoned: bool = False
    engines: frozenset[str] | None = None  # what is installed there; None: not told
    accelerators: Sequence[CandidateAccelerator] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidatePool:
    """One pool. `accelerators_left` is what the asker's quota leaves there; None: no limit."""

    name: str
    is_granted: bool = True
    accelerators_left: Fraction | None = None


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the request goes: the slots to hold, ordered by accelerator index, then slot."""

    node_id: UUID
    node_name: str
    pool_name: str
    type_slug: str
    slots: tuple[tuple[UUID, int], ...]  # (accelerator, slot)
    share: Fraction  # accelerators held: two slots of four are 1/2


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why one pool, or one node of it, was refused."""

    pool_name: str
    filter: Filter
    message: str
    node_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """No place, and why: every node of the pools looked into, and every pool not looked into."""

    reasons: tuple[Reason, ...]

    @property
    def is_passing(self) -> bool:
        """True if the same request may fit later, once something is free, back or granted."""
        return any(reason.filter in PASSING for reason in self.reasons)

    def by_pool(self) -> list[dict[str, object]]:
        """One line a pool and filter, with how many nodes it refused and the first one's message:
        [{"pool", "filter", "message", "nodes"}], the filter nearest to fitting first."""
        groups: dict[tuple[str, Filter], list[Reason]] = {}
        for reason in self.reasons:
            groups.setdefault((reason.pool_name, reason.filter), []).append(reason)
        ordered = sorted(groups.items(), key=lambda item: (item[0][0], -ORDER[item[0][1]]))
        return [
            {
                "pool": pool_name,
                "filter": str(name),
                "message": reasons[0].message,
                "nodes": sum(1 for reason in reasons if reason.node_name),
            }
            for (pool_name, name), reasons in ordered
        ]


@dataclass
class _Search:
    request: AcceleratorRequest
    best: tuple[tuple[int, float, float, float, int, str, int], Placement] | None = None
    reasons: list[Reason] = field(default_factory=list)

    def refuse(self, name: Filter, message: str, *, pool: str, node: str = "") -> None:
        self.reasons.append(Reason(pool_name=pool, filter=name, message=message, node_name=node))


def place(
    request: AcceleratorRequest, *, pools: Iterable[CandidatePool], nodes: Iterable[CandidateNode]
) -> Placement | Refusal:
    """The best placement, or why there is none. The same input always gives the same answer.

    Accelerators in `avoid_accelerators` come last whatever else speaks for them. A slot of four is
    taken before one that is a whole accelerator. Then binpack: slots go to the fullest accelerator
    with room, whole accelerators to the node with the fewest free ones, so that large requests find
    whole nodes. Then the one with the least memory.
    """
    search = _Search(request)
    by_pool: dict[str, list[CandidateNode]] = {}
    for node in nodes:
        by_pool.setdefault(node.pool_name, []).append(node)
    names = set()
    for pool in pools:
        names.add(pool.name)
        _look_into(search, pool, by_pool.get(pool.name, []))
    if request.pool_name and request.pool_name not in names:
        message = f"there is no pool {request.pool_name} that you may use"
        search.refuse(Filter.UNKNOWN_POOL, message, pool=request.pool_name)
    if search.best is not None:
        return search.best[1]
    return Refusal(reasons=tuple(search.reasons))


def _look_into(search: _Search, pool: CandidatePool, nodes: list[CandidateNode]) -> None:
    asked = search.request.pool_name
    if asked and asked != pool.name:
        search.refuse(Filter.OTHER_POOL, f"pool {asked} was asked for", pool=pool.name)
    elif not pool.is_granted:
        search.refuse(Filter.NOT_GRANTED, "the pool is not granted to you", pool=pool.name)
    elif not nodes:
        search.refuse(Filter.EMPTY, "the pool has no nodes", pool=pool.name)
    else:
        for node in nodes:
            if search.request.node_id not in (None, node.id):
                message = "another node was asked for"
                search.refuse(Filter.OTHER_NODE, message, pool=pool.name, node=node.name)
            else:
                _try_node(search, pool, node)


def _try_node(search: _Search, pool: CandidatePool, node: CandidateNode) -> None:
    refusal = _node_refusal(node)
    if refusal is None:
        found = [_try_group(search, pool, node, group) for group in _groups(node)]
        if None in found:
            return  # a group fits
        refusal = max((each for each in found if each), key=lambda each: ORDER[each[0]])
    search.refuse(refusal[0], refusal[1], pool=pool.name, node=node.name)


def _node_refusal(node: CandidateNode) -> tuple[Filter, str] | None:
    if not node.accelerators:
        return Filter.EMPTY, f"node {node.name} has no accelerators"
    if not node.is_ready:
        return Filter.NOT_READY, f"node {node.name} sends no heartbeats"
    if node.is_cordoned:
        return Filter.CORDONED, f"node {node.name} is cordoned"
    return None


def _groups(node: CandidateNode) -> list[list[CandidateAccelerator]]:
    """The node's accelerators by type: a gang is of one type."""
    groups: dict[str, list[CandidateAccelerator]] = {}
    for accelerator in node.accelerators:
        groups.setdefault(accelerator.type_slug, []).append(accelerator)
    return list(groups.values())


def _try_group(
    search: _Search,
    pool: CandidatePool,
    node: CandidateNode,
    group: list[CandidateAccelerator],
) -> tuple[Filter, str] | None:
    """Offers the best placement in the group, or says which filter refused it."""
    request, first = search.request, group[0]
    where = f"{first.type_slug} on {node.name}"
    if (
        request.torch_devices is not None
        and first.torch_device.partition(":")[0] not in request.torch_devices
    ):
        wanted = ", ".join(sorted(request.torch_devices)) or "none"
        return (
            Filter.TORCH_DEVICE,
            f"{where} is {first.torch_device or 'no'} to torch, not {wanted}",
        )
    if request.engine is not None and request.engine not in first.engines:
        return Filter.ENGINE, f"{where} does not run the engine {request.engine}"
    if (
        request.engine is not None
        and node.engines is not None
        and request.engine not in node.engines
    ):
        return Filter.NOT_INSTALLED, f"node {node.name} does not have the engine {request.engine}"
    able = group
    if request.memory_bytes is not None:
        able = [each for each in able if _has_memory(each, request)]
        if not able:
            return Filter.MEMORY, f"{where} has less memory than the {_need(request)} needed"
    able = [each for each in able if each.slots >= request.slots]
    if not able or len(able) < request.accelerators:
        return Filter.TOO_FEW, f"{where}: {_offer(able)}, {_wish(request)} wanted"
    able = [each for each in able if each.is_healthy]
    if not able or len(able) < request.accelerators:
        return Filter.UNHEALTHY, f"{where}: {_offer(able)} and are healthy"
    return _take(search, pool, node, able, where)


def _take(
    search: _Search,
    pool: CandidatePool,
    node: CandidateNode,
    able: list[CandidateAccelerator],
    where: str,
) -> tuple[Filter, str] | None:
    request = search.request
    if pool.accelerators_left is not None:
        left = pool.accelerators_left
        able = [each for each in able if _share(request, each) <= left]
        if not able:
            message = f"your quota leaves {float(left):g} accelerators in {pool.name}"
            return Filter.QUOTA, f"{message}, {_wish(request)} wanted"
    chosen = _whole(request, able) if request.accelerators else _shared(request, able)
    if chosen is None:
        return Filter.BUSY, f"{where}: {_wish(request)} wanted, not that many are free"
    avoided = sum(each.id in request.avoid_accelerators for each in chosen)
    if request.accelerators:
        slots = [(each.id, slot) for each in chosen for slot in range(each.slots)]
    else:
        slots = [(chosen[0].id, slot) for slot in sorted(chosen[0].free_slots)[: request.slots]]
    share = _share(request, chosen[0])
    # By what it takes, then by what it leaves free of the accelerators chosen and of the node.
    left_here = sum(len(each.free_slots) / each.slots for each in chosen) - float(share)
    left_there = round(sum(len(each.free_slots) / each.slots for each in node.accelerators), 6)
    memory_bytes = chosen[0].memory_bytes or 0
    score = (
        avoided,
        float(share),
        round(left_here, 6),
        left_there,
        memory_bytes,
        node.name,
        chosen[0].index,
    )
    if search.best is not None and search.best[0] <= score:
        return None
    search.best = (
        score,
        Placement(
            node_id=node.id,
            node_name=node.name,
            pool_name=pool.name,
            type_slug=able[0].type_slug,
            slots=tuple(slots),
            share=share,
        ),
    )
    return None


def _whole(
    request: AcceleratorRequest, able: list[CandidateAccelerator]
) -> list[CandidateAccelerator] | None:
    free = [each for each in able if each.is_free]
    if len(free) < request.accelerators:
        return None
    free.sort(key=lambda each: (each.id in request.avoid_accelerators, each.index))
    return sorted(free[: request.accelerators], key=lambda each: each.index)


def _shared(
    request: AcceleratorRequest, able: list[CandidateAccelerator]
) -> list[CandidateAccelerator] | None:
    roomy = [each for each in able if len(each.free_slots) >= request.slots]
    if not roomy:
        return None
    avoid = request.avoid_accelerators
    return [min(roomy, key=lambda each: (each.id in avoid, len(each.free_slots), each.index))]


def _share(request: AcceleratorRequest, accelerator: CandidateAccelerator) -> Fraction:
    """Accelerators held if the request is met with this one (and its like)."""
    if request.accelerators:
        return Fraction(request.accelerators)
    return Fraction(request.slots, accelerator.slots)


def _has_memory(accelerator: CandidateAccelerator, request: AcceleratorRequest) -> bool:
    """An accelerator whose memory nobody knows is not taken for a request that states a need."""
    if accelerator.memory_bytes is None or request.memory_bytes is None:
        return False
    if request.accelerators:
        return accelerator.memory_bytes * request.accelerators >= request.memory_bytes
    return accelerator.memory_bytes * request.slots >= request.memory_bytes * accelerator.slots


def _need(request: AcceleratorRequest) -> str:
    each = (request.memory_bytes or 0) / max(request.accelerators, 1) / 2**30
    return f"{each:.2f} GiB on {_wish(request)}" if request.slots else f"{each:.2f} GiB on each"


def _wish(request: AcceleratorRequest) -> str:
    if request.accelerators:
        return _count(request.accelerators, "accelerator")
    return f"{_count(request.slots, 'slot')} of one accelerator"


def _offer(able: list[CandidateAccelerator]) -> str:
    slots = max((each.slots for each in able), default=0)
    return f"{_count(len(able), 'accelerator')} of {_count(slots, 'slot')} fit"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
