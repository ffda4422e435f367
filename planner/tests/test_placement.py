import dataclasses
import random
from fractions import Fraction

import pytest

from planner.placement import (
    AcceleratorRequest,
    CandidateNode,
    CandidatePool,
    Filter,
    Placement,
    Refusal,
    place,
)
from planner.tests.make import GIB, accelerator_id, make_node

OPEN = (CandidatePool(name="default"),)


def placed(request: AcceleratorRequest, *nodes: CandidateNode, pools=OPEN) -> Placement:
    answer = place(request, pools=pools, nodes=nodes)
    assert isinstance(answer, Placement), answer
    return answer


def refused(request: AcceleratorRequest, *nodes: CandidateNode, pools=OPEN) -> Refusal:
    answer = place(request, pools=pools, nodes=nodes)
    assert isinstance(answer, Refusal), answer
    return answer


@pytest.mark.parametrize("wish", [{}, {"accelerators": 1, "slots": 1}, {"accelerators": -1}])
def test_a_request_asks_for_whole_accelerators_or_for_slots(wish: dict) -> None:
    with pytest.raises(ValueError):
        AcceleratorRequest(**wish)


def test_a_whole_accelerator_is_all_of_its_slots() -> None:
    answer = placed(AcceleratorRequest(accelerators=1), make_node(slots=4, held={0: {2}}))
    assert answer.slots == tuple((accelerator_id(0, 1), slot) for slot in range(4))
    assert answer.share == 1


def test_slots_go_to_the_fullest_accelerator_with_room() -> None:
    node = make_node(slots=4, held={0: {0}, 1: {0, 1}})
    answer = placed(AcceleratorRequest(slots=2), node)
    assert answer.slots == ((accelerator_id(0, 1), 2), (accelerator_id(0, 1), 3))
    assert answer.share == Fraction(1, 2)


def test_a_slot_of_many_is_taken_before_a_whole_accelerator() -> None:
    cards = make_node(0, type_slug="card", torch_device="cuda", accelerators=1)
    shared = make_node(1, slots=4)
    assert placed(AcceleratorRequest(slots=1), cards, shared).type_slug == "cpu"
    assert placed(AcceleratorRequest(slots=1), cards).share == 1


def test_the_node_with_fewest_free_accelerators_is_filled_first() -> None:
    nodes = [make_node(0, accelerators=4), make_node(1, accelerators=4, held={0: {0}, 1: {0}})]
    assert placed(AcceleratorRequest(accelerators=1), *nodes).node_name == "node-1"
    assert placed(AcceleratorRequest(accelerators=3), *nodes).node_name == "node-0"


def test_a_gang_is_never_split_over_nodes_or_types() -> None:
    nodes = [make_node(0, accelerators=2), make_node(1, accelerators=2)]
    refusal = refused(AcceleratorRequest(accelerators=3), *nodes)
    assert {reason.filter for reason in refusal.reasons} == {Filter.TOO_FEW}
    assert not refusal.is_passing
    cards = make_node(0, type_slug="card", torch_device="cuda").accelerators
    mixed = make_node(0, accelerators=2)
    both = CandidateNode(
        id=mixed.id,
        name=mixed.name,
        pool_name=mixed.pool_name,
        accelerators=(*mixed.accelerators, *cards),
    )
    assert {r.filter for r in refused(AcceleratorRequest(accelerators=3), both).reasons} == {
        Filter.TOO_FEW
    }


def test_avoided_accelerators_are_taken_only_if_nothing_else_is_free() -> None:
    avoid = frozenset({accelerator_id(0, 0)})
    full = make_node(slots=4, held={0: {0, 1}})
    request = AcceleratorRequest(slots=1, avoid_accelerators=avoid)
    assert placed(request, full).slots == ((accelerator_id(0, 1), 0),)
    request = AcceleratorRequest(accelerators=1, avoid_accelerators=avoid)
    assert placed(request, make_node(held={1: {0}})).slots == ((accelerator_id(0, 0), 0),)


def test_memory_is_counted_over_the_gang_and_by_share_of_slots() -> None:
    node = make_node(accelerators=2, slots=4, memory_bytes=8 * GIB)
    assert placed(AcceleratorRequest(accelerators=2, memory_bytes=16 * GIB), node)
    assert placed(AcceleratorRequest(slots=2, memory_bytes=4 * GIB), node)
    for request in (
        AcceleratorRequest(accelerators=2, memory_bytes=16 * GIB + 1),
        AcceleratorRequest(slots=2, memory_bytes=4 * GIB + 1),
    ):
        refusal = refused(request, node)
        assert refusal.reasons[0].filter == Filter.MEMORY
        assert not refusal.is_passing
    unknown = make_node(memory_bytes=None)
    assert placed(AcceleratorRequest(accelerators=1), unknown)
    assert refused(AcceleratorRequest(accelerators=1, memory_bytes=1), unknown)


ONE = AcceleratorRequest(accelerators=1)


@pytest.mark.parametrize(
    ("request_", "node", "pool", "expected"),
    [
        (ONE, make_node(is_ready=False), OPEN[0], Filter.NOT_READY),
        (ONE, make_node(is_cordoned=True), OPEN[0], Filter.CORDONED),
        (ONE, make_node(is_healthy=False), OPEN[0], Filter.UNHEALTHY),
        (ONE, make_node(accelerators=0), OPEN[0], Filter.EMPTY),
        (ONE, make_node(held={0: {0}, 1: {0}}), OPEN[0], Filter.BUSY),
        (ONE, make_node(), CandidatePool(name="default", is_granted=False), Filter.NOT_GRANTED),
        (ONE, make_node(pool="elsewhere"), OPEN[0], Filter.EMPTY),
        (
            ONE,
            make_node(),
            CandidatePool(name="default", accelerators_left=Fraction(1, 2)),
            Filter.QUOTA,
        ),
        (
            AcceleratorRequest(accelerators=1, torch_devices=frozenset({"cuda"})),
            make_node(),
            OPEN[0],
            Filter.TORCH_DEVICE,
        ),
        (AcceleratorRequest(accelerators=1, engine="vllm"), make_node(), OPEN[0], Filter.ENGINE),
        (
            AcceleratorRequest(accelerators=1, engine="vllm"),
            make_node(engines=frozenset({"vllm"}), installed=frozenset({"transformers"})),
            OPEN[0],
            Filter.NOT_INSTALLED,
        ),
        (AcceleratorRequest(slots=5), make_node(slots=4), OPEN[0], Filter.TOO_FEW),
    ],
)
def test_the_refusing_filter_is_named(
    request_: AcceleratorRequest, node: CandidateNode, pool: CandidatePool, expected: Filter
) -> None:
    refusal = refused(request_, node, pools=(pool,))
    assert [(reason.pool_name, reason.filter) for reason in refusal.reasons] == [
        ("default", expected)
    ]
    assert refusal.reasons[0].message


def test_a_gang_short_of_a_healthy_member_may_wait_for_it() -> None:
    node = make_node()
    broken = dataclasses.replace(node.accelerators[1], is_healthy=False)
    node = dataclasses.replace(node, accelerators=(node.accelerators[0], broken))
    refusal = refused(AcceleratorRequest(accelerators=2), node)
    assert [reason.filter for reason in refusal.reasons] == [Filter.UNHEALTHY]
    assert refusal.is_passing
    assert placed(ONE, node).slots == ((accelerator_id(0, 0), 0),)


def test_a_pool_asked_for_is_the_only_one_looked_into() -> None:
    pools = (CandidatePool(name="default"), CandidatePool(name="cards"))
    nodes = [make_node(0), make_node(1, pool="cards", held={0: {0}})]
    request = AcceleratorRequest(accelerators=1, pool_name="default")
    assert placed(request, *nodes, pools=pools).pool_name == "default"
    refusal = refused(AcceleratorRequest(accelerators=1, pool_name="none"), *nodes, pools=pools)
    assert [(r.pool_name, r.filter) for r in refusal.reasons] == [
        ("default", Filter.OTHER_POOL),
        ("cards", Filter.OTHER_POOL),
        ("none", Filter.UNKNOWN_POOL),
    ]


def test_the_explanation_counts_nodes_by_pool_and_filter() -> None:
    nodes = [make_node(n, held={0: {0}, 1: {0}}) for n in range(3)]
    refusal = refused(ONE, *nodes, make_node(3, is_cordoned=True))
    lines = refusal.by_pool()
    assert [(line["pool"], line["filter"], line["nodes"]) for line in lines] == [
        ("default", "busy", 3),
        ("default", "cordoned", 1),
    ]
    assert refusal.is_passing


@pytest.mark.parametrize("seed", range(40))
def test_any_placement_is_sound_and_any_refusal_is_true(seed: int) -> None:
    rng = random.Random(seed)
    nodes = []
    for number in range(rng.randint(1, 8)):
        slots, count = rng.choice([1, 2, 4]), rng.randint(1, 8)
        held = {i: {s for s in range(slots) if rng.random() < 0.5} for i in range(count)}
        nodes.append(
            make_node(
                number,
                accelerators=count,
                slots=slots,
                held=held,
                pool=rng.choice(["default", "cards"]),
                is_ready=rng.random() < 0.8,
                is_cordoned=rng.random() < 0.2,
                memory_bytes=rng.choice([None, 8 * GIB, 80 * GIB]),
            )
        )
    pools = [CandidatePool(name="default"), CandidatePool(name="cards", is_granted=seed % 3 > 0)]
    whole = rng.random() < 0.5
    request = AcceleratorRequest(
        accelerators=rng.randint(1, 4) if whole else 0,
        slots=0 if whole else rng.randint(1, 3),
        memory_bytes=rng.choice([None, 4 * GIB, 40 * GIB]),
    )
    granted = {pool.name for pool in pools if pool.is_granted}
    usable = [n for n in nodes if n.is_ready and not n.is_cordoned and n.pool_name in granted]
    answer = place(request, pools=pools, nodes=nodes)
    rng.shuffle(nodes)
    again = place(request, pools=pools, nodes=nodes)
    assert isinstance(again, Placement) == isinstance(answer, Placement)
    if isinstance(answer, Placement):
        assert answer == again
        (node,) = [n for n in usable if n.id == answer.node_id]
        by_id = {each.id: each for each in node.accelerators}
        assert len(set(answer.slots)) == len(answer.slots)
        assert all(slot in by_id[owner].free_slots for owner, slot in answer.slots)
        owners = {owner for owner, _ in answer.slots}
        if whole:
            assert len(owners) == request.accelerators
            assert len(answer.slots) == sum(by_id[owner].slots for owner in owners)
        else:
            assert len(owners) == 1
            assert len(answer.slots) == request.slots
    else:
        assert not any(brute_force_fits(request, node) for node in usable)
        named = {reason.node_name for reason in answer.reasons if reason.node_name}
        assert named == {n.name for n in nodes if n.pool_name in granted}


def brute_force_fits(request: AcceleratorRequest, node: CandidateNode) -> bool:
    if request.accelerators:
        free = [a for a in node.accelerators if a.is_free]
        if request.memory_bytes is not None:
            part = request.memory_bytes / request.accelerators
            free = [a for a in free if a.memory_bytes is not None and a.memory_bytes >= part]
        return len(free) >= request.accelerators
    for each in node.accelerators:
        enough = len(each.free_slots) >= request.slots
        if request.memory_bytes is not None:
            share = (each.memory_bytes or 0) * request.slots / each.slots
            enough = enough and share >= request.memory_bytes
        if enough:
            return True
    return False
