"""Moves what gateways told from the stream in Redis into rows in PostgreSQL, each event once.

One process at a time reads the stream, as the one consumer of its group. What it has taken stays
pending there until the rows are committed; dying between the two leaves it pending, and whoever
comes next begins with that. `request_id` keeps an event that is told twice from counting twice.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import redis
from django.conf import settings
from django.db import DataError, IntegrityError, transaction

from accounts.models import Organization
from common import locks
from usage import sealing, stream
from usage.models import RejectedEvent, UsageEvent

logger = logging.getLogger(__name__)

BATCH = 50  # entries; each holds one event or up to some hundreds
MOST_AT_ONCE = 1_000  # entries of one call, so that a task ends
ROWS = 1000  # of one INSERT
LOCK = "usage.ingest"
CONSUMER = "ingest"  # one at a time, so they share a name, and each finds what the last left
PENDING, NEW = "0", ">"
LONGEST_CONTENT = 100_000  # characters kept of what is rejected
PAUSE_SECONDS = 0.02
CLOCKS_DIFFER = timedelta(hours=1)  # at most: an event from later than that is of now

Entry = tuple[bytes, dict[bytes, bytes] | None]  # its id and fields; None if they were deleted


@dataclass(frozen=True, slots=True)
class Told:
    """An event and where in the stream it stands."""

    entry_id: str
    position: int
    row: UsageEvent


def ingest(*, now: datetime) -> int | None:
    """Take what waits in the stream; how many entries, or None if another process is at it.

    Raises what Redis or PostgreSQL raise while they are away; the entries wait for the next call.
    """
    with locks.only_one(LOCK) as mine:
        if not mine:
            return None
        client = connect()
        try:
            return _take_all(client, now=now)
        finally:
            client.close()


def ingest_all(*, now: datetime, wait_seconds: float = 5.0) -> bool:
    """Take what waits now, after whoever is at it; False if they are not done in time."""
    deadline = time.monotonic() + wait_seconds
    while ingest(now=now) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def complete_until(*, now: datetime) -> datetime:
    """No event that was told before this moment still waits in the stream."""
    client = connect()
    try:
        waiting: Any = client.xrange(stream.EVENTS, count=1)
    finally:
        client.close()
    if not waiting:
        return now
    milliseconds = int(waiting[0][0].partition(b"-")[0])
    return min(now, datetime.fromtimestamp(milliseconds / 1000, UTC))


def connect() -> redis.Redis:
    client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=10, protocol=2)
    # As it comes: the library's own reading fails on an entry that is pending and was deleted.
    client.set_response_callback("XREADGROUP", lambda answer, **_options: answer)
    return client


def _take_all(client: redis.Redis, *, now: datetime) -> int:
    taken, source = 0, PENDING  # first what somebody took who did not live to say that it is done
    while taken < MOST_AT_ONCE:
        entries = _read(client, source)
        if entries:
            _keep(entries, now=now)
            _acknowledge(client, [entry_id for entry_id, _fields in entries])
            taken += len(entries)
        elif source == PENDING:
            source = NEW
        else:
            break
    return taken


def _read(client: redis.Redis, source: str) -> list[Entry]:
    """The next entries; `source` says whether those that are pending or those nobody has taken."""
    try:
        return _read_group(client, source)
    except redis.ResponseError as error:
        if not str(error).startswith("NOGROUP"):
            raise
    try:  # the first time, or Redis came back empty
        client.xgroup_create(stream.EVENTS, stream.GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
    return _read_group(client, source)


def _read_group(client: redis.Redis, source: str) -> list[Entry]:
    found: Any = client.xreadgroup(stream.GROUP, CONSUMER, {stream.EVENTS: source}, count=BATCH)
    if not found:
        return []
    return [
        (entry_id, dict(zip(fields[::2], fields[1::2], strict=True)) if fields else None)
        for entry_id, fields in found[0][1]
    ]


def _acknowledge(client: redis.Redis, entry_ids: list[bytes]) -> None:
    """Their rows are committed: they leave the group and the stream in one step."""
    with client.pipeline(transaction=True) as pipeline:
        pipeline.xack(stream.EVENTS, stream.GROUP, *entry_ids)
        pipeline.xdel(stream.EVENTS, *entry_ids)
        pipeline.execute()


def _keep(entries: Iterable[Entry], *, now: datetime) -> None:
    told, rejected = _rows_of(entries, now=now)
    named = Organization.objects.filter(pk__in={each.row.organization_id for each in told})
    known = set(named.values_list("pk", flat=True))
    unknown = [each for each in told if each.row.organization_id not in known]
    rejected += [_rejected(each, "no such organization", now=now) for each in unknown]
    told = [each for each in told if each.row.organization_id in known]
    with transaction.atomic():
        _place_late(told, now=now)
        rejected += _insert(told, now=now)
        RejectedEvent.objects.bulk_create(rejected, ignore_conflicts=True)
    for each in rejected:
        logger.error("a usage event that cannot be counted: %s: %s", each, each.reason)


def _rows_of(entries: Iterable[Entry], *, now: datetime) -> tuple[list[Told], list[RejectedEvent]]:
    told: list[Told] = []
    rejected: list[RejectedEvent] = []
    for entry_id, fields in entries:
        where = entry_id.decode()
        if not fields:  # somebody deleted it from the stream by hand
            continue
        try:
            events = stream.decode(fields)
        except ValueError as error:
            rejected.append(_rejection(where, 0, str(error), repr(fields), now=now))
            continue
        for position, event in enumerate(events):
            try:
                values = stream.values_of(event)
            except ValueError as error:
                rejected.append(_rejection(where, position, str(error), repr(event), now=now))
                continue
            if values["at"] > now + CLOCKS_DIFFER:
                values["at"] = now
            told.append(Told(where, position, UsageEvent(**values)))
    return told, rejected


def _place_late(told: Iterable[Told], *, now: datetime) -> None:
    """Events of sealed hours count in the hour that is open now; their own hours stay as they are.

    Holds off the sealing of the organizations concerned until the rows are committed.
    """
    old: defaultdict[UUID, list[UsageEvent]] = defaultdict(list)
    for each in told:
        if sealing.may_be_sealed(each.row.at, now=now):
            old[each.row.organization_id].append(each.row)
    for organization_id in sorted(old):  # in one order, so that none waits for another
        sealing.lock(organization_id)
        until = sealing.sealed_until(organization_id)
        for row in old[organization_id]:
            if until is not None and row.at < until:
                row.late_hour = max(until, sealing.hour_of(now))


def _insert(told: list[Told], *, now: datetime) -> list[RejectedEvent]:
    """All at once; or, if PostgreSQL refuses one of them, each by itself, to know which."""
    rows = [each.row for each in told]
    try:
        with transaction.atomic():
            UsageEvent.objects.bulk_create(rows, batch_size=ROWS, ignore_conflicts=True)
    except (DataError, IntegrityError):
        pass
    else:
        return []
    rejected = []
    for each in told:
        try:
            with transaction.atomic():
                UsageEvent.objects.bulk_create([each.row], ignore_conflicts=True)
        except (DataError, IntegrityError) as error:
            rejected.append(_rejected(each, str(error), now=now))
    return rejected


def _rejected(told: Told, reason: str, *, now: datetime) -> RejectedEvent:
    values = {
        field.attname: str(getattr(told.row, field.attname)) for field in UsageEvent._meta.fields
    }
    return _rejection(told.entry_id, told.position, reason, repr(values), now=now)


def _rejection(
    entry_id: str, position: int, reason: str, content: str, *, now: datetime
) -> RejectedEvent:
    return RejectedEvent(
        entry_id=entry_id,
        position=position,
        reason=reason.replace("\0", "")[:300],
        content=content.replace("\0", "")[:LONGEST_CONTENT],
        rejected_at=now,
    )
