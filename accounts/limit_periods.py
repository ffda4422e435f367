"""Over which time limits are counted, in which units, and where Redis keeps the counts."""

from datetime import datetime, timedelta
from functools import lru_cache
from uuid import UUID
from zoneinfo import ZoneInfo

MINUTE = 60
QUARTER = 900
FOREVER = 1 << 40  # the end of what has no period, in seconds since 1970
# Money is counted in whole units of this size, rounded up for each request: 90 million fit exactly
# into the numbers that Redis' scripts reckon with (2**53).
MONEY_UNIT = 1e-8
SPENT = "spent"  # field of a counter: what was used
HELD = "h:"  # and what a process holds for open requests and those to come; its id follows


def period_of(period: str, *, at: float, time_zone: str) -> tuple[float, float]:
    """The period that a moment belongs to: its start and its end, seconds since 1970. Minutes are
    those of the clock; days and months begin at midnight of the time zone; an empty period is
    everything."""
    if period == "minute":
        start = at // MINUTE * MINUTE
        return start, start + MINUTE
    if not period:
        return 0.0, float(FOREVER)
    return _calendar(period, int(at // QUARTER), time_zone)


def counter_key(limit_id: UUID | str, start: float) -> str:
    """The hash in Redis that counts a limit in the period that begins then."""
    return f"limits:{limit_id}:{int(start)}"


@lru_cache(maxsize=4096)
def _calendar(period: str, quarter: int, time_zone: str) -> tuple[float, float]:
    """By quarters of an hour: midnights of all time zones fall on one."""
    zone = ZoneInfo(time_zone)
    today = datetime.fromtimestamp(quarter * QUARTER, zone).date()
    if period == "day":
        first, last = today, today + timedelta(days=1)
    else:
        first = today.replace(day=1)
        last = (first + timedelta(days=32)).replace(day=1)
    start, end = (
        datetime(each.year, each.month, each.day, tzinfo=zone).timestamp() for each in (first, last)
    )
    return start, end
