from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection

from accounts.tests.make import NOW, make_organization
from usage import ingest, rollups, stream
from usage.models import UsageEvent, UsageRecord
from usage.tests.make import make_event, redis, tell

pytestmark = pytest.mark.django_db


def test_an_event_becomes_a_row_and_leaves_the_stream() -> None:
    event = make_event(is_interrupted=True, output_tokens=7)
    tell(event)
    assert ingest.ingest(now=NOW) == 1
    row = UsageEvent.objects.get()
    assert (row.request_id, row.at, row.output_tokens) == (event["request_id"], NOW, 7)
    assert row.is_interrupted
    assert str(row.organization_id) == event["organization_id"]
    assert redis().xlen(stream.EVENTS) == 0


def test_an_event_told_twice_counts_once() -> None:
    event = make_event()
    redis().xadd(stream.EVENTS, stream.encode([event, make_event(), event]))  # type: ignore[arg-type]
    ingest.ingest(now=NOW)
    tell(event)
    ingest.ingest(now=NOW)
    assert UsageEvent.objects.count() == 2


def test_what_is_no_event_is_set_aside_and_holds_nothing_up() -> None:
    redis().xadd(stream.EVENTS, {"events": "not json"})
    redis().xadd(stream.EVENTS, {"other": "field"})
    tell({"request_id": "x"}, make_event(at="noon"))  # type: ignore[typeddict-item]
    tell(make_event(organization_id="018f0000-0000-7000-8000-000000000000"), make_event())
    assert ingest.ingest(now=NOW) == 6
    assert UsageEvent.objects.count() == 1
    assert redis().xlen(stream.REJECTED) == 5


def test_a_long_stream_is_taken_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "BATCH", 10)
    monkeypatch.setattr(ingest, "MOST_AT_ONCE", 30)
    tell(*[make_event() for _ in range(35)])
    assert ingest.ingest(now=NOW) == 30
    assert ingest.ingest(now=NOW) == 5
    assert UsageEvent.objects.count() == 35


def test_an_event_that_comes_after_its_hour_was_sealed_still_counts() -> None:
    retail = make_organization()
    tell(make_event(retail))
    ingest.ingest(now=NOW)
    later = NOW + timedelta(hours=5)
    rollups.roll_up_open(organization=retail, now=later)
    assert UsageRecord.objects.get(item="requests").sealed_at == later
    tell(make_event(retail), make_event(retail, at=(NOW - timedelta(hours=3)).timestamp()))
    ingest.ingest(now=later)
    records = UsageRecord.objects.filter(item="requests").order_by("hour")
    assert [int(record.quantity) for record in records] == [1, 2]
    assert all(record.sealed_at for record in records)


@pytest.mark.django_db(transaction=True)
def test_many_who_ingest_at_once_lose_nothing_and_double_nothing() -> None:
    tell(*[make_event() for _ in range(300)])

    def take(_number: int) -> bool:
        try:
            return ingest.ingest_all(now=NOW)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(take, range(6)))
    assert UsageEvent.objects.count() == 300
