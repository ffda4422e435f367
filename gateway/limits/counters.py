"""One limit in one of its periods, as this process sees it."""

import math
from typing import Any

from accounts.limit_periods import counter_key
from gateway.limits.rules import Demand, Rule

DAY = 86_400
MOST_STORED = 256  # requests that may be let in without asking Redis
SCARCE_REQUESTS = 64  # with room for fewer nothing is stored any more: each request asks
SCARCE_SHARE = 0.05  # of the amount, likewise
KEPT_SECONDS = 2 * DAY  # a counter in Redis, after its period


class Counter:
    """`free` was granted to this process and is nobody's yet; `reserved` belongs to open requests;
    `used` has not been told to Redis yet. All in the rule's whole units."""

    __slots__ = (
        "asked_at",
        "end",
        "entered",
        "free",
        "is_dirty",
        "need",
        "reserved",
        "room",
        "rule",
        "scarce_seconds",
        "sent",
        "start",
        "used",
        "waiting",
    )

    def __init__(self, rule: Rule, *, start: float, end: float) -> None:
        self.rule = rule
        self.start = start
        self.end = end
        self.free = 0
        self.reserved = 0
        self.used = 0
        self.room = rule.amount  # when Redis last told
        self.scarce_seconds = -1.0  # since when, as Redis last told; -1 where there is room
        self.entered = 0  # requests since the last turn
        self.need = 1  # of the last request
        self.is_dirty = False
        self.sent = 0  # of what was used, in the turn that is under way
        self.waiting = 0  # requests that wait for room in it
        self.asked_at = 0.0  # when room was last asked for (monotonic)

    @property
    def key(self) -> str:
        return key_of(self.rule, self.start)

    def need_of(self, demand: Demand) -> int:
        measure = self.rule.measure
        if measure == "tokens":
            is_rate = self.rule.period == "minute"
            return demand.expected_tokens if is_rate else demand.tokens
        return demand.money if measure == "money" else demand.requests

    def ask(self, need: int, *, now: float) -> None:
        """Somebody asks for room; `now` is monotonic."""
        self.entered += 1
        self.need = need
        self.asked_at = now

    def reserve(self, need: int, *, now: float) -> None:
        """Of what is stored here."""
        self.ask(need, now=now)
        self.free -= need
        self.reserved += need

    def settle(self, need: int, used: int) -> None:
        self.reserved -= need
        self.used += used
        self.is_dirty = True

    def drop_store(self) -> None:
        if self.free:
            self.free = 0
            self.is_dirty = True

    def is_over(self, now: float) -> bool:
        """Whether nothing will be asked of it any more."""
        busy = self.reserved or self.used or self.free or self.is_dirty or self.waiting
        return not busy and (now >= self.end or not self.entered)

    def turn(self, now: float) -> dict[str, Any]:
        """Its part of the next turn (see counting.lua), which takes `used` along."""
        rule, used = self.rule, self.used
        scarce = max(self.need * SCARCE_REQUESTS, math.ceil(rule.amount * SCARCE_SHARE))
        wanted = 0
        if self.entered > 1 and now < self.end:
            wanted = self.need * min(MOST_STORED, self.entered * 2)
            if self.free > wanted // 2:
                wanted = 0
        is_rate = rule.period == "minute"
        warns_at = 0
        if rule.warn_percent and rule.is_kept:
            warns_at = max(1, math.ceil(rule.amount * rule.warn_percent / 100))
        self.sent, self.used, self.entered, self.is_dirty = used, 0, 0, False
        return {
            "k": self.key,
            "a": rule.amount,
            "h": self.reserved + self.free,
            "d": used,
            "x": int(min(self.end, now + 32 * DAY)) + KEPT_SECONDS,
            "b": int(rule.is_kept),
            "l": wanted,
            "g": scarce,
            "o": self.start,
            "w": (self.end - self.start) if is_rate else 0,
            "q": key_of(rule, self.start - (self.end - self.start)) if is_rate else "",
            "n": warns_at,
        }


def key_of(rule: Rule, start: float) -> str:
    return counter_key(rule.id, start)
