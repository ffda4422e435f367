"""Real transactions on real connections: never two holders of a slot, nothing lost."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from django.db import connection

from accounts.models import Quota
from accounts.tests.make import NOW, make_organization
from chips import services
from chips.models import AllocatedSlot, Allocation
from chips.tests.make import make_allocation, make_node, seen_cpu
from common.ids import new_id
from planner.placement import AcceleratorRequest

pytestmark = pytest.mark.django_db(transaction=True)

WHOLE = AcceleratorRequest(accelerators=1)
ALLOCATORS = 64


def together(work, count: int = ALLOCATORS) -> list:
    """Runs `work(n)` in as many threads at once, each with a connection of its own."""
    start = threading.Barrier(count)

    def one(number: int):
        try:
            start.wait()
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def try_allocate(organization, request: AcceleratorRequest, holder: UUID | None = None):
    try:
        return make_allocation(organization, request=request, holder_id=holder)
    except services.NothingFits:
        return None


def make_sixteen(nodes: int) -> None:
    for number in range(nodes):
        make_node(f"node-{number}", accelerators=[seen_cpu(i) for i in range(16 // nodes)])


def live_slots() -> Counter:
    rows = AllocatedSlot.objects.filter(released_at__isnull=True)
    return Counter(rows.values_list("accelerator_id", "slot"))


@pytest.mark.parametrize("nodes", [1, 4, 16])
def test_64_allocators_on_16_accelerators_give_16_holders(nodes: int) -> None:
    make_sixteen(nodes)
    retail = make_organization()
    answers = together(lambda _n: try_allocate(retail, WHOLE))
    held = [row for row in answers if row is not None]
    assert len(held) == 16
    assert Allocation.objects.filter(released_at__isnull=True).count() == 16
    slots = live_slots()
    assert len(slots) == 64
    assert set(slots.values()) == {1}


def test_the_same_with_slots_and_gangs_leaves_none_free_that_could_be_held() -> None:
    make_sixteen(4)
    retail = make_organization()
    wishes = [AcceleratorRequest(slots=1), AcceleratorRequest(accelerators=2)]
    answers = together(lambda n: try_allocate(retail, wishes[n % 2]))
    slots = live_slots()
    assert set(slots.values()) == {1}
    granted = sum(row.accelerator_share for row in answers if row is not None)
    assert granted * 4 == len(slots)
    # All 32 small ones fit beside whatever gangs were first, or nothing is free at all.
    assert len(slots) == 64 or all(answers[n] is not None for n in range(0, ALLOCATORS, 2))


def test_one_holder_asking_64_times_at_once_holds_once() -> None:
    make_sixteen(4)
    retail, holder = make_organization(), new_id()
    answers = together(lambda _n: try_allocate(retail, WHOLE, holder))
    assert len({row.pk for row in answers}) == 1
    assert Allocation.objects.count() == 1


def test_a_quota_holds_under_64_allocators() -> None:
    make_sixteen(16)
    retail = make_organization()
    Quota.objects.create(organization=retail, max_accelerators=5)
    answers = together(lambda _n: try_allocate(retail, WHOLE))
    assert sum(row is not None for row in answers) == 5


def test_holding_and_releasing_at_once_never_overlaps_and_ends_empty() -> None:
    make_sixteen(4)
    retail = make_organization()
    overlaps: list[UUID] = []
    owners: dict[UUID, UUID] = {}
    guard = threading.Lock()

    def work(number: int) -> int:
        rng, turns = random.Random(number), 0
        for _ in range(6):
            request = WHOLE if rng.random() < 0.7 else AcceleratorRequest(accelerators=2)
            row = try_allocate(retail, request)
            if row is None:
                continue
            turns += 1
            mine = set(row.slots.values_list("accelerator_id", flat=True))
            with guard:
                overlaps.extend(each for each in mine if each in owners)
                owners.update(dict.fromkeys(mine, row.pk))
            time.sleep(rng.random() * 0.01)  # others try meanwhile
            with guard:
                for each in mine:
                    owners.pop(each, None)
            services.release(allocation_id=row.pk, reason="done", now=NOW)
        return turns

    turns = together(work, 32)
    assert not overlaps
    assert sum(turns) == Allocation.objects.count() > 16
    assert not live_slots()
    assert not Allocation.objects.filter(released_at__isnull=True).exists()
