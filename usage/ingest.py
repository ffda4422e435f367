"""Moves what gateways told from the stream in Redis into rows in PostgreSQL, each event once.

One process at a time reads the stream from its beginning; entries are deleted once their rows are
committed. Dying between the two tells them again, and `request_id` keeps them from counting twice.
"""

import logging
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import redis
from django.conf import settings
from django.db import transaction

from accounts.models import Organization
from common import locks
from usage import rollups, stream
from usage.models import UsageEvent

logger = logging.getLogger(__name__)

BATCH = 50  # entries; each holds one event or up to some hundreds
MOST_AT_ONCE = 1_000  # entries of one call, so that a task ends
ROWS = 1000  # of one INSERT
LOCK = "usage.ingest"
PAUSE_SECONDS = 0.02


def ingest(*, now: datetime) -> int | None:
    """Take what waits in the stream; how many entries, or None if another process is at it."""
    with locks.only_one(LOCK) as mine:
        if not mine:
            return None
        client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=10)
        try:
            taken = 0
            while taken < MOST_AT_ONCE:
                count = _take_batch(client, now=now)
                taken += count
                if count < BATCH:
                    break
            return taken
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


def _take_batch(client: redis.Redis, *, now: datetime) -> int:
    entries: Any = client.xrange(stream.EVENTS, count=BATCH)
    if not entries:
        return 0
    events, rejected = _read(entries)
    named = Organization.objects.filter(pk__in={each.organization_id for each in events})
    known = set(named.values_list("pk", flat=True))
    rejected += [each.request_id for each in events if each.organization_id not in known]
    events = [each for each in events if each.organization_id in known]
    with transaction.atomic():
        UsageEvent.objects.bulk_create(events, batch_size=ROWS, ignore_conflicts=True)
        _count_late(events, now=now)
    for what in rejected:
        logger.error("a usage event that no row can be made of: %s", what)
        client.xadd(stream.REJECTED, {"event": what}, maxlen=10_000)
    client.xdel(stream.EVENTS, *[entry_id for entry_id, _ in entries])
    return len(entries)


def _read(
    entries: Iterable[tuple[bytes, dict[bytes, bytes]]],
) -> tuple[list[UsageEvent], list[str]]:
    events: list[UsageEvent] = []
    rejected: list[str] = []
    for _id, fields in entries:
        try:
            told = stream.decode(fields)
        except ValueError as error:
            rejected.append(f"{error}: {fields!r}")
            continue
        for event in told:
            try:
                events.append(UsageEvent(**stream.values_of(event)))
            except ValueError as error:
                rejected.append(f"{error}: {event!r}")
    return events, rejected


def _count_late(events: Iterable[UsageEvent], *, now: datetime) -> None:
    """An event of an hour that was sealed without it: compute that hour again."""
    hours = {(each.organization_id, rollups.hour_of(each.at)) for each in events}
    old = {each for each in hours if rollups.is_to_be_sealed(each[1], now=now)}
    for organization in Organization.objects.filter(pk__in={pk for pk, _ in old}):
        sealed = rollups.last_sealed_hour(organization)
        for hour in sorted(hour for pk, hour in old if pk == organization.pk):
            if sealed is not None and hour <= sealed:
                rollups.roll_up(
                    organization=organization, start=hour, end=hour + rollups.HOUR, now=now
                )
