"""Requests a minute and requests at once, of a key and of an organization, in this process.

A guard against a runaway client, not a budget: each gateway process counts for itself.
"""

import math
import time
from dataclasses import dataclass

from gateway import errors
from gateway.directory import Key

MOST_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class LimitSettings:
    requests_per_minute: int = 60_000
    concurrency: int = 2_000


class Limits:
    """`enter` before a request and `leave` after it. Full buckets hold one minute's requests."""

    def __init__(self, settings: LimitSettings | None = None) -> None:
        self._settings = settings or LimitSettings()
        self._buckets: dict[str, tuple[float, float]] = {}  # requests left, and when that was
        self._open: dict[str, int] = {}

    def enter(self, key: Key) -> None:
        """Count one request in. Raises ApiError (429) and counts nothing."""
        now = time.monotonic()
        holders = ((key.id, "API key"), (key.organization_id, "organization"))
        for holder, name in holders:
            if self._open.get(holder, 0) >= self._settings.concurrency:
                raise errors.too_many(
                    f"This {name} has {self._settings.concurrency} requests open, its limit.",
                    code="concurrency_limit_exceeded",
                    retry_after_seconds=1,
                )
            left = self._left(holder, now)
            if left < 1:
                wait = (1 - left) * 60 / self._settings.requests_per_minute
                raise errors.too_many(
                    f"This {name} may send {self._settings.requests_per_minute} requests a minute.",
                    code="rate_limit_exceeded",
                    retry_after_seconds=max(1, math.ceil(wait)),
                )
        if len(self._buckets) > MOST_BUCKETS:
            self._forget(now)
        for holder, _name in holders:
            self._buckets[holder] = (self._left(holder, now) - 1, now)
            self._open[holder] = self._open.get(holder, 0) + 1

    def leave(self, key: Key) -> None:
        for holder in (key.id, key.organization_id):
            still = self._open.get(holder, 0) - 1
            if still > 0:
                self._open[holder] = still
            else:
                self._open.pop(holder, None)

    def _left(self, holder: str, now: float) -> float:
        limit = self._settings.requests_per_minute
        left, at = self._buckets.get(holder, (float(limit), now))
        return min(float(limit), left + (now - at) * limit / 60)

    def _forget(self, now: float) -> None:
        """Full buckets are as good as none."""
        limit = self._settings.requests_per_minute
        self._buckets = {
            holder: bucket
            for holder, bucket in self._buckets.items()
            if self._left(holder, now) < limit
        }
