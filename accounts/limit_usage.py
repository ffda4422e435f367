"""How much of limits is used now, as the gateways count it."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast
from uuid import UUID

import redis
from django.conf import settings

from accounts.choices import LimitKind
from accounts.limit_periods import HELD, MONEY_UNIT, SPENT, counter_key, period_of
from accounts.models import Limit

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1.0
UNITS = Decimal(str(MONEY_UNIT))


@dataclass(frozen=True)
class Used:
    """Of one limit in its present period, open requests with what they may use. `amount` None:
    nobody counts it yet, or Redis is away. `resets_at` None for requests at once."""

    amount: Decimal | None
    resets_at: datetime | None


def read(rows: Sequence[Limit], *, now: datetime) -> dict[UUID, Used]:
    """By limit id; rows come with their organization. Never raises: without Redis nobody knows."""
    periods = [
        period_of(
            LimitKind(row.kind).period, at=now.timestamp(), time_zone=row.organization.time_zone
        )
        for row in rows
    ]
    pipeline = _client().pipeline(transaction=False)
    for row, (start, _) in zip(rows, periods, strict=True):
        pipeline.hgetall(counter_key(row.pk, start))
    try:
        counters = cast("list[dict[bytes, bytes] | None]", pipeline.execute() if rows else [])
    except redis.RedisError as error:
        logger.warning("nobody knows what is used of limits, Redis is away: %s", error)
        counters = [None for _ in rows]
    return {
        row.pk: Used(
            amount=_amount(row, fields),
            resets_at=datetime.fromtimestamp(end, UTC) if LimitKind(row.kind).period else None,
        )
        for row, (_, end), fields in zip(rows, periods, counters, strict=True)
    }


def _amount(row: Limit, fields: dict[bytes, bytes] | None) -> Decimal | None:
    """A day or month that nobody counts is one without requests since the limit was set: what was
    used before is looked up with the next one."""
    if fields is None or (not fields and LimitKind(row.kind).period in ("day", "month")):
        return None
    units = sum(
        int(value)
        for name, value in fields.items()
        if name == SPENT.encode() or name.startswith(HELD.encode())
    )
    is_money = LimitKind(row.kind).measure == "money"
    return units * UNITS if is_money else Decimal(units)


@functools.cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )
