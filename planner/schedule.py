"""Hours of the week in which other limits hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, kw_only=True)
class Hours:
    """From `start` to `end` on these days (0 is Monday), by the clock on the wall. An end that is
    not after the start lies on the following day. A limit that is None is left as it is."""

    days: frozenset[int]
    start: time
    end: time
    min_replicas: int | None = None
    max_replicas: int | None = None

    def holds(self, local: datetime) -> bool:
        at, day = local.time(), local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= at < self.end
        before = (local - timedelta(days=1)).weekday()
        return (day in self.days and at >= self.start) or (before in self.days and at < self.end)


def limits_at(
    schedule: Sequence[Hours], *, local: datetime, min_replicas: int, max_replicas: int
) -> tuple[int, int]:
    """The least and the most replicas at a moment: those of the first hours that hold, if any. A
    minimum above the maximum raises it."""
    for hours in schedule:
        if hours.holds(local):
            if hours.min_replicas is not None:
                min_replicas = hours.min_replicas
            if hours.max_replicas is not None:
                max_replicas = hours.max_replicas
            break
    return min_replicas, max(min_replicas, max_replicas)
