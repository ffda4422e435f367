from datetime import UTC, datetime

import pytest

from accounts.limit_periods import MONEY_UNIT, period_of


@pytest.mark.parametrize(
    ("zone", "at", "start", "hours"),
    [
        ("UTC", "2026-11-23T12:00", "2026-11-23T00:00", 24),
        ("Asia/Shanghai", "2026-11-23T15:59", "2026-11-22T16:00", 24),
        ("Asia/Shanghai", "2026-11-23T16:00", "2026-11-23T16:00", 24),
        ("Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", 25),  # clocks go back
        ("Asia/Kathmandu", "2026-11-23T18:14", "2026-11-22T18:15", 24),
    ],
)
def test_a_day_begins_at_midnight_of_the_time_zone(zone, at, start, hours):
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()
    found = period_of("day", at=moment, time_zone=zone)
    wanted = datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp()
    assert found == (wanted, wanted + hours * 3600)


def test_a_month_ends_where_the_next_begins():
    moment = datetime(2026, 12, 31, 15, 59, tzinfo=UTC).timestamp()
    start, end = period_of("month", at=moment, time_zone="Asia/Shanghai")
    assert datetime.fromtimestamp(start, UTC) == datetime(2026, 11, 30, 16, tzinfo=UTC)
    assert datetime.fromtimestamp(end, UTC) == datetime(2026, 12, 31, 16, tzinfo=UTC)
    assert period_of("month", at=end, time_zone="Asia/Shanghai")[0] == end


def test_budgets_of_ninety_million_are_counted_exactly():
    assert MONEY_UNIT * 2**53 > 9 * 10**7
