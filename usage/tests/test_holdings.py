"""Room that things take, by the hour."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from chips.choices import PriceItem
from usage import holdings, periods, rollups, statements
from usage.choices import Item, Stored
from usage.holdings import Thing
from usage.models import StorageHolding, UsageRecord
from usage.tests.make import make_price

pytestmark = pytest.mark.django_db

GIGABYTE = 10**9
HOUR = timedelta(hours=1)


class Shelf:
    """What one organization keeps, as an app above would tell."""

    def __init__(self, owner: Organization) -> None:
        self.owner = owner
        self.things: list[Thing] = []

    def __call__(self, organization: Organization) -> Iterator[Thing]:
        yield from self.things if organization == self.owner else ()

    def put(self, size_bytes: int, created_at: datetime) -> None:
        self.things = [Thing(Stored.FILE, uuid4(), "notes.jsonl", size_bytes, created_at)]

    def resize(self, size_bytes: int) -> None:
        self.things = [replace(thing, size_bytes=size_bytes) for thing in self.things]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    found = Shelf(make_organization())
    monkeypatch.setattr(holdings, "_sources", [found])
    return found


def hours(organization: Organization) -> dict[datetime, Decimal]:
    rows = UsageRecord.objects.of(organization).filter(item=Item.STORAGE_GIGABYTE_HOURS)
    return {row.hour: row.quantity for row in rows}


def test_room_counts_from_when_a_thing_was_made_until_it_is_gone(shelf: Shelf) -> None:
    shelf.put(2 * GIGABYTE, NOW)
    rollups.roll_up_open(organization=shelf.owner, now=NOW + 90 * timedelta(minutes=1))
    assert hours(shelf.owner) == {NOW: 2, NOW + HOUR: 1}
    shelf.things = []
    rollups.roll_up_open(organization=shelf.owner, now=NOW + 105 * timedelta(minutes=1))
    rollups.roll_up_open(organization=shelf.owner, now=NOW + 5 * HOUR)
    assert hours(shelf.owner) == {NOW: 2, NOW + HOUR: Decimal("1.5")}
    assert StorageHolding.objects.get().subject_name == "notes.jsonl"


def test_what_grows_counts_its_new_size_from_then_on(shelf: Shelf) -> None:
    shelf.put(GIGABYTE, NOW)
    rollups.roll_up_open(organization=shelf.owner, now=NOW + HOUR)
    shelf.resize(3 * GIGABYTE)
    rollups.roll_up_open(organization=shelf.owner, now=NOW + HOUR)
    rollups.roll_up_open(organization=shelf.owner, now=NOW + 2 * HOUR)
    assert hours(shelf.owner) == {NOW: 1, NOW + HOUR: 3}
    assert StorageHolding.objects.filter(released_at__isnull=True).count() == 1


def test_a_thing_found_late_does_not_change_sealed_hours(shelf: Shelf) -> None:
    shelf.put(GIGABYTE, NOW)
    rollups.roll_up_open(organization=shelf.owner, now=NOW + 6 * HOUR)
    before = {hour: quantity for hour, quantity in hours(shelf.owner).items() if hour < NOW + HOUR}
    late = Thing(Stored.CHECKPOINT, uuid4(), "found", GIGABYTE, NOW)
    shelf.things.append(late)
    rollups.roll_up_open(organization=shelf.owner, now=NOW + 6 * HOUR)
    row = StorageHolding.objects.get(subject_id=late.subject_id)
    assert row.held_at == NOW + 4 * HOUR  # the first open hour
    assert hours(shelf.owner) | before == hours(shelf.owner)
    assert not rollups.list_differences(
        organization=shelf.owner, start=NOW, end=NOW + 6 * HOUR, now=NOW + 6 * HOUR
    )


def test_storage_is_on_the_statement_by_the_month(shelf: Shelf) -> None:
    make_price(PriceItem.STORAGE, "7.3")  # a gigabyte for a month of 730 hours
    shelf.put(10 * GIGABYTE, NOW - 10 * HOUR)
    start, end = periods.month(shelf.owner, f"{NOW:%Y-%m}")
    found = statements.statement(organization=shelf.owner, start=start, end=end, now=NOW)
    (line,) = found.lines
    assert line.what.item == Item.STORAGE_GIGABYTE_HOURS
    assert line.quantity == 100
    assert found.total == 1
