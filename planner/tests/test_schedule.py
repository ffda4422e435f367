from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest

from planner.schedule import Hours, limits_at

OFFICE = Hours(days=frozenset(range(5)), start=time(8), end=time(18), min_replicas=3)
NIGHT = Hours(days=frozenset({4}), start=time(22), end=time(6), max_replicas=1)
MONDAY = 23  # of November 2026


def local(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=ZoneInfo("Asia/Shanghai"))


@pytest.mark.parametrize(
    ("at", "limits"),
    [
        (local(MONDAY, 7, 59), (0, 4)),
        (local(MONDAY, 8), (3, 4)),
        (local(MONDAY, 17, 59), (3, 4)),
        (local(MONDAY, 18), (0, 4)),
        (local(MONDAY + 5, 12), (0, 4)),  # Saturday
        (local(MONDAY + 4, 23), (0, 1)),  # Friday night
        (local(MONDAY + 5, 5, 59), (0, 1)),  # which ends on Saturday
        (local(MONDAY + 5, 6), (0, 4)),
        (local(MONDAY + 3, 23), (0, 4)),
    ],
)
def test_limits_follow_the_clock_on_the_wall(at: datetime, limits: tuple[int, int]) -> None:
    assert limits_at([OFFICE, NIGHT], local=at, min_replicas=0, max_replicas=4) == limits


def test_the_same_time_twice_is_a_whole_day() -> None:
    sunday = Hours(days=frozenset({6}), start=time(9), end=time(9), min_replicas=1)
    assert sunday.holds(local(MONDAY + 6, 9))
    assert sunday.holds(local(MONDAY + 7, 8))
    assert not sunday.holds(local(MONDAY + 7, 9))
    assert not sunday.holds(local(MONDAY + 6, 8))


def test_a_minimum_above_the_maximum_raises_it() -> None:
    assert limits_at([OFFICE], local=local(MONDAY, 9), min_replicas=0, max_replicas=2) == (3, 3)
