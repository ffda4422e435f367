"""Values for the planner's tests."""

from uuid import UUID

from planner.placement import CandidateAccelerator, CandidateNode

GIB = 2**30


def accelerator_id(node: int, index: int) -> UUID:
    return UUID(int=node * 1000 + index + 1)


def make_node(
    number: int = 0,
    *,
    accelerators: int = 2,
    slots: int = 1,
    held: dict[int, set[int]] | None = None,
    pool: str = "default",
    type_slug: str = "cpu",
    torch_device: str = "cpu",
    engines: frozenset[str] = frozenset({"transformers"}),
    memory_bytes: int | None = 8 * GIB,
    is_healthy: bool = True,
    installed: frozenset[str] | None = None,
    **fields: bool,
) -> CandidateNode:
    """A node whose accelerator `index` has the slots `held[index]` taken."""
    taken = held or {}
    return CandidateNode(
        id=UUID(int=10**6 + number),
        name=f"node-{number}",
        pool_name=pool,
        engines=installed,
        accelerators=tuple(
            CandidateAccelerator(
                id=accelerator_id(number, index),
                index=index,
                type_slug=type_slug,
                torch_device=torch_device,
                engines=engines,
                memory_bytes=memory_bytes,
                slots=slots,
                free_slots=frozenset(range(slots)) - taken.get(index, set()),
                is_healthy=is_healthy,
            )
            for index in range(accelerators)
        ),
        **fields,
    )
