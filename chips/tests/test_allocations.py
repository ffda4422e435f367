from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction

from accounts.models import Quota
from accounts.tests.make import NOW, make_organization
from chips import selectors, services
from chips.models import Accelerator, AllocatedSlot, Allocation
from chips.tests.make import (
    GIB,
    make_allocation,
    make_card_type,
    make_node,
    make_pool,
    seen_card,
    seen_cpu,
)
from common.ids import new_id
from planner.placement import AcceleratorRequest

pytestmark = pytest.mark.django_db

ONE_SLOT = AcceleratorRequest(slots=1)


def test_an_allocation_keeps_the_names_that_a_bill_needs() -> None:
    make_node()
    row = make_allocation()
    assert (row.node_name, row.pool_name) == ("node-a", "default")
    assert row.accelerator_type_slug == "generic-cpu-x86-64-host"
    assert row.accelerator_share == 1
    assert row.slots.count() == 4
    assert make_allocation(request=ONE_SLOT).accelerator_share == Decimal("0.25")


def test_a_holder_that_asks_again_gets_what_it_holds() -> None:
    make_node()
    holder = new_id()
    first = make_allocation(holder_id=holder)
    assert make_allocation(holder_id=holder, request=ONE_SLOT) == first
    assert services.release(allocation_id=first.pk, reason="done", now=NOW)
    assert make_allocation(holder_id=holder) != first


def test_release_is_done_once_and_frees_the_slots() -> None:
    make_node()
    first, _second = make_allocation(), make_allocation()
    with pytest.raises(services.NothingFits):
        make_allocation(request=ONE_SLOT)
    later = NOW + timedelta(minutes=5)
    assert services.release(allocation_id=first.pk, reason="done", now=later)
    assert not services.release(allocation_id=first.pk, reason="again", now=NOW)
    first.refresh_from_db()
    assert (first.released_at, first.release_reason) == (later, "done")
    assert make_allocation()


def test_a_release_by_a_slow_clock_never_ends_before_it_began() -> None:
    make_node()
    row = make_allocation()
    services.release(allocation_id=row.pk, reason="done", now=NOW - timedelta(seconds=3))
    row.refresh_from_db()
    assert row.released_at == row.held_at


def test_the_database_itself_forbids_a_second_holder_of_a_slot() -> None:
    make_node()
    row = make_allocation()
    slot = row.slots.first()
    assert slot is not None
    with pytest.raises(IntegrityError), transaction.atomic():
        AllocatedSlot.objects.create(
            allocation=row, accelerator_id=slot.accelerator_id, slot=slot.slot
        )


def test_nothing_fits_says_why_for_every_pool_one_may_use() -> None:
    make_node()
    make_pool("empty")
    make_pool("secret", is_open=False)
    with pytest.raises(services.NothingFits) as refused:
        make_allocation(request=AcceleratorRequest(accelerators=3))
    lines = refused.value.details
    assert isinstance(lines, list)
    assert [(line["pool"], line["filter"]) for line in lines] == [
        ("default", "too_few"),
        ("empty", "empty"),
    ]
    with pytest.raises(services.NothingFits) as refused:
        make_allocation(request=AcceleratorRequest(accelerators=1, pool_name="secret"))
    assert "unknown_pool" in str(refused.value.details)


def test_a_closed_pool_serves_those_with_a_grant() -> None:
    retail, bank = make_organization(), make_organization("bank")
    pool = make_pool("private", is_open=False)
    make_node(pool="private")
    with pytest.raises(services.NothingFits):
        make_allocation(retail)
    services.grant_pool(pool=pool, organization=retail, now=NOW)
    assert make_allocation(retail)
    with pytest.raises(services.NothingFits):
        make_allocation(bank)
    services.revoke_pool_grant(pool=pool, organization=retail, now=NOW)
    with pytest.raises(services.NothingFits):
        make_allocation(retail)


@pytest.mark.parametrize("pool_name", ["", "default"])
def test_a_quota_bounds_what_one_organization_holds(pool_name: str) -> None:
    retail, bank = make_organization(), make_organization("bank")
    make_node()
    Quota.objects.create(organization=retail, pool_name=pool_name, max_accelerators=1)
    half = AcceleratorRequest(slots=2)
    first = make_allocation(retail, request=half)
    make_allocation(retail, request=half)
    with pytest.raises(services.NothingFits) as refused:
        make_allocation(retail, request=ONE_SLOT)
    assert "quota" in str(refused.value.details)
    assert refused.value.is_passing
    assert make_allocation(bank)
    services.release(allocation_id=first.pk, reason="done", now=NOW)
    assert make_allocation(retail, request=half)


def test_nothing_is_placed_on_cordoned_silent_or_faulty_hardware() -> None:
    node = make_node(accelerators=[seen_cpu(0), seen_cpu(1, is_healthy=False)])
    assert make_allocation().slots.first().accelerator.index == 0
    Allocation.objects.all().delete()
    services.cordon_node(node_id=node.pk, now=NOW)
    with pytest.raises(services.NothingFits):
        make_allocation()
    services.uncordon_node(node_id=node.pk, now=NOW)
    services.watch_nodes(now=NOW + timedelta(seconds=20))
    with pytest.raises(services.NothingFits) as refused:
        make_allocation()
    assert "not_ready" in str(refused.value.details)


def test_devices_are_what_the_holder_may_use() -> None:
    make_card_type()
    make_node(
        accelerators=[
            seen_cpu(0, cores=(0, 1, 2, 3)),
            seen_card(0),
            seen_card(1),
        ]
    )
    cards = make_allocation(
        request=AcceleratorRequest(accelerators=2, torch_devices=frozenset({"cuda"}))
    )
    assert [
        (d.index, d.device_id, d.torch_device, d.visible_devices_variable)
        for d in selectors.list_devices(cards)
    ] == [
        (0, "GPU-0", "cuda", "CUDA_VISIBLE_DEVICES"),
        (1, "GPU-1", "cuda", "CUDA_VISIBLE_DEVICES"),
    ]
    shared = make_allocation(request=AcceleratorRequest(slots=2))
    (device,) = selectors.list_devices(shared)
    assert (device.cores, device.memory_bytes, device.torch_device) == ((0, 1), 4 * GIB, "cpu")
    other = make_allocation(request=AcceleratorRequest(slots=2))
    assert selectors.list_devices(other)[0].cores == (2, 3)


@pytest.mark.parametrize(
    ("cores", "slots", "expected"),
    [
        ((0,), {3}, (0,)),
        ((4, 5), {0, 1}, (4,)),
        ((4, 5), {1, 2}, (4, 5)),
        (range(8), {1}, (2, 3)),
        (range(8), {0, 1, 2, 3}, tuple(range(8))),
        ((), {0}, ()),
    ],
)
def test_slots_share_out_the_cores(cores: tuple, slots: set, expected: tuple) -> None:
    assert selectors.cores_of_slots(cores, slots=slots, of=4) == expected


def test_the_engine_and_the_torch_device_are_asked_of_the_type() -> None:
    make_card_type()
    make_node(accelerators=[seen_cpu(0), seen_card(0)])
    vllm = AcceleratorRequest(accelerators=1, engine="vllm")
    assert make_allocation(request=vllm).accelerator_type_slug == "nvidia-l20"
    with pytest.raises(services.NothingFits) as refused:
        make_allocation(request=vllm)
    assert "busy" in str(refused.value.details)
    for engine in ("transformers", "fake"):
        request = AcceleratorRequest(slots=1, engine=engine)
        assert make_allocation(request=request).accelerator_type_slug == "generic-cpu-x86-64-host"


def test_pool_use_counts_shares() -> None:
    make_node()
    make_allocation(request=AcceleratorRequest(slots=2))
    Accelerator.objects.filter(index=1).update(status="unhealthy")
    (use,) = selectors.list_pool_use()
    assert (use.nodes, use.nodes_ready, use.accelerators, use.accelerators_healthy) == (1, 1, 2, 1)
    assert use.accelerators_held == Decimal("0.5")
