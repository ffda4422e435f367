import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection

from accounts.tests.make import NOW, make_organization
from usage import ingest, rollups, stream
from usage.models import RejectedEvent, UsageEvent, UsageRecord
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
    assert RejectedEvent.objects.count() == 5
    assert redis().xlen(stream.EVENTS) == 0


def test_a_long_stream_is_taken_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "BATCH", 10)
    monkeypatch.setattr(ingest, "MOST_AT_ONCE", 30)
    tell(*[make_event() for _ in range(35)])
    assert ingest.ingest(now=NOW) == 30
    assert ingest.ingest(now=NOW) == 5
    assert UsageEvent.objects.count() == 35


def test_an_event_that_comes_after_its_hour_was_sealed_counts_in_the_open_one() -> None:
    retail = make_organization()
    tell(make_event(retail))
    ingest.ingest(now=NOW)
    later = NOW + timedelta(hours=5)
    rollups.roll_up_open(organization=retail, now=later)
    sealed = list(UsageRecord.objects.order_by("pk").values())
    assert all(row["sealed_at"] == later for row in sealed)
    tell(make_event(retail), make_event(retail, at=(NOW - timedelta(hours=3)).timestamp()))
    ingest.ingest(now=later)
    rollups.roll_up_open(organization=retail, now=later)
    again = UsageRecord.objects.filter(of_hour__isnull=True).order_by("pk")
    assert list(again.values()) == sealed
    late = UsageRecord.objects.filter(item="requests", of_hour__isnull=False).order_by("of_hour")
    assert [(row.hour.hour, row.of_hour.hour, int(row.quantity)) for row in late] == [
        (NOW.hour + 5, NOW.hour - 3, 1),
        (NOW.hour + 5, NOW.hour, 1),
    ]


def test_hours_are_not_sealed_while_what_was_told_in_them_waits() -> None:
    retail = make_organization()
    long_ago = NOW - timedelta(hours=6)
    tell(make_event(retail, at=long_ago.timestamp()))
    ingest.ingest(now=NOW)
    entry = stream.encode([make_event(retail, at=long_ago.timestamp())])
    milliseconds = int(long_ago.timestamp() * 1000)
    redis().xtrim(stream.EVENTS, maxlen=0)
    redis().delete(stream.EVENTS)
    redis().xadd(stream.EVENTS, entry, id=f"{milliseconds}-0")  # type: ignore[arg-type]
    complete_until = ingest.complete_until(now=NOW)
    assert complete_until == long_ago
    rollups.roll_up_open(organization=retail, now=NOW, complete_until=complete_until)
    assert not UsageRecord.objects.filter(sealed_at__isnull=False).exists()
    ingest.ingest(now=NOW)
    rollups.roll_up_open(organization=retail, now=NOW, complete_until=NOW)
    row = UsageRecord.objects.get(item="requests")
    assert (int(row.quantity), row.of_hour, row.sealed_at) == (2, None, NOW)


def test_what_postgresql_refuses_takes_nothing_else_with_it() -> None:
    refused = make_event(at=0.0)  # a clock that was never set
    odd = make_event(key_name="a\0b" + "x" * 90, first_token_milliseconds=float("nan"))
    huge = make_event(input_tokens=2**31)
    negative = make_event(output_tokens=-1)
    redis().xadd(
        stream.EVENTS,
        stream.encode([refused, huge, make_event(), negative, odd]),  # type: ignore[arg-type]
    )
    assert ingest.ingest(now=NOW) == 1
    assert UsageEvent.objects.count() == 2
    assert UsageEvent.objects.get(request_id=odd["request_id"]).key_name == "ab" + "x" * 78
    assert RejectedEvent.objects.count() == 3


def test_one_row_that_the_database_refuses_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_TOKENS", 2**40)  # as if a check had been forgotten
    tell(make_event(), make_event(input_tokens=2**33), make_event())
    assert ingest.ingest(now=NOW) == 3
    assert UsageEvent.objects.count() == 2
    assert "out of range" in RejectedEvent.objects.get().reason


def test_while_postgresql_is_away_events_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_args: object, **_fields: object) -> None:
        raise OperationalError("the database is away")

    tell(make_event(), make_event())
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_insert", away)
        for _ in range(2):
            with pytest.raises(OperationalError):
                ingest.ingest(now=NOW)
    assert UsageEvent.objects.count() == 0
    assert redis().xlen(stream.EVENTS) == 2
    tell(make_event())
    assert ingest.ingest(now=NOW) == 3
    assert UsageEvent.objects.count() == 3
    assert redis().xpending(stream.EVENTS, stream.GROUP)["pending"] == 0


def test_a_pending_entry_that_somebody_deleted_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell(make_event(), make_event())
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_acknowledge", lambda *_args: None)
        patch.setattr(ingest, "MOST_AT_ONCE", 2)
        ingest.ingest(now=NOW)
    entries: Any = redis().xrange(stream.EVENTS, count=1)
    redis().xdel(stream.EVENTS, entries[0][0])
    assert ingest.ingest(now=NOW) == 2
    assert redis().xpending(stream.EVENTS, stream.GROUP)["pending"] == 0
    assert UsageEvent.objects.count() == 2


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


DIES = """
import os, signal, sys
import django
django.setup()
from datetime import datetime, UTC
from django.conf import settings
settings.DATABASES["default"]["NAME"] = sys.argv[1]
from usage import ingest
def die(*_args, **_fields): os.kill(os.getpid(), signal.SIGKILL)
ingest._acknowledge = die
ingest.ingest(now=datetime.fromisoformat(sys.argv[2]))
"""


@pytest.mark.django_db(transaction=True)
def test_killed_between_the_commit_and_the_acknowledgement() -> None:
    retail = make_organization()
    tell(*[make_event(retail) for _ in range(120)])
    name = connection.settings_dict["NAME"]
    command = [sys.executable, "-c", DIES, name, NOW.isoformat()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert UsageEvent.objects.count() == ingest.BATCH
    assert redis().xpending(stream.EVENTS, stream.GROUP)["pending"] == ingest.BATCH
    tell(make_event(retail))
    assert ingest.ingest_all(now=NOW, wait_seconds=30)
    assert UsageEvent.objects.count() == 121
    assert redis().xlen(stream.EVENTS) == 0
