"""Requests a minute and requests at once, of a key and of an organization, in this process.

A guard against a runaway client, not a budget: each gateway process counts for itself.
"""

import asyncio
import math
import time
from dataclasses import dataclass

from gateway import errors
from gateway.directory import Key
from gateway.limits.limiter import Ticket, Wish

FORGET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LimitSettings:
    requests_per_minute: int = 60_000
    concurrency: int = 2_000


class Holder:
    """A key or an organization: its open requests, and its bucket as of `at` (monotonic)."""

    __slots__ = ("at", "left", "open")

    def __init__(self, left: float, at: float) -> None:
        self.left = left
        self.at = at
        self.open = 0


class Limits:
    """A Limiter that asks nobody. Full buckets hold one minute's requests."""

    def __init__(self, settings: LimitSettings | None = None) -> None:
        self._settings = settings or LimitSettings()
        self._holders: dict[str, Holder] = {}

    async def enter(self, key: Key, wish: Wish) -> Ticket:
        now = time.monotonic()
        its_key = self._holder(key.id, now)
        its_organization = self._holder(key.organization_id, now)
        self._check(its_key, "API key")
        self._check(its_organization, "organization")
        for holder in (its_key, its_organization):
            holder.left -= 1
            holder.open += 1
        return Ticket(key)

    def leave(
        self,
        ticket: Ticket,
        *,
        is_counted: bool,
        input_tokens: int,
        cached_input_tokens: int,
        output_tokens: int,
    ) -> None:
        self._holders[ticket.key.id].open -= 1
        self._holders[ticket.key.organization_id].open -= 1

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FORGET_SECONDS)
            self.forget(time.monotonic())

    def forget(self, now: float) -> None:
        """Full buckets are as good as none."""
        names = list(self._holders)
        for name in names:
            holder = self._holder(name, now)
            if not holder.open and holder.left >= self._settings.requests_per_minute:
                del self._holders[name]

    def _holder(self, name: str, now: float) -> Holder:
        limit = self._settings.requests_per_minute
        holder = self._holders.get(name)
        if holder is None:
            holder = self._holders[name] = Holder(float(limit), now)
        elif now > holder.at:
            left = holder.left + (now - holder.at) * limit / 60
            holder.left = left if left < limit else float(limit)
            holder.at = now
        return holder

    def _check(self, holder: Holder, name: str) -> None:
        settings = self._settings
        if holder.open >= settings.concurrency:
            raise errors.too_many(
                f"This {name} has {settings.concurrency} requests open, its limit.",
                code="concurrency_limit_exceeded",
                retry_after_seconds=1,
            )
        if holder.left < 1:
            wait = (1 - holder.left) * 60 / settings.requests_per_minute
            raise errors.too_many(
                f"This {name} may send {settings.requests_per_minute} requests a minute.",
                code="rate_limit_exceeded",
                retry_after_seconds=max(1, math.ceil(wait)),
            )
