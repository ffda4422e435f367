"""One limit in one of its periods, as this process sees it."""

import math
from typing import Any

from gateway.limits.rules import DAY, Demand, Rule

MOST_STORED = 256  # requests that may be let in without asking Redis
SCARCE_REQUESTS = 64  # with room for fewer nothing is stored any more: each request asks
SCARCE_SHARE = 0.05  # of the amount, likewise
KEPT_SECONDS = 2 * DAY  # a counter in Redis, after its period


class Counter:
    """`free` was granted to this process and is nobody's yet; `reserved` belongs to open requests;
    `used` has not been told to Redis yet. All in the rule's whole units."""

    __slots__ = (
        "end",
        "entered",
        "free",
        "is_dirty",
        "need",
        "reserved",
        "room",
        "rule",
        "scarce_seconds",
        "start",
        "used",
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

    @property
    def key(self) -> str:
        return key_of(self.rule, self.start)

    def need_of(self, demand: Demand) -> int:
        measure = self.rule.measure
        if measure == "tokens":
            is_rate = self.rule.period == "minute"
            return demand.expected_tokens if is_rate else demand.tokens
        return demand.money if measure == "money" else demand.requests

    def reserve(self, need: int) -> None:
        """Of what is stored here."""
        self.free -= need
        self.reserved += need
        self.entered += 1
        self.need = need

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
        idle = not (self.reserved or self.used or self.free or self.is_dirty)
        return idle and (now >= self.end or not self.entered)

    def turn(self, now: float) -> dict[str, Any]:
        """Its part of the next turn (see counting.lua), which takes `used` along."""
        rule, used = self.rule, self.used
        scarce = max(self.need * SCARCE_REQUESTS, math.ceil(rule.amount * SCARCE_SHARE))
        wanted = 0
        if self.entered > 1 and now < self.end and not self.free:
            wanted = self.need * min(MOST_STORED, self.entered * 2)
        is_rate = rule.period == "minute"
        warns_at = 0
        if rule.warn_percent and rule.is_kept:
            warns_at = max(1, math.ceil(rule.amount * rule.warn_percent / 100))
        self.used, self.entered, self.is_dirty = 0, 0, False
        return {
            "k": self.key,
            "a": rule.amount,
            "h": self.reserved + self.free,
            "d": used,
            "x": int(min(self.end, now + DAY) if rule.is_kept is False else self.end)
            + KEPT_SECONDS,
            "b": int(rule.is_kept),
            "l": wanted,
            "g": scarce,
            "o": self.start,
            "w": (self.end - self.start) if is_rate else 0,
            "q": key_of(rule, self.start - (self.end - self.start)) if is_rate else "",
            "n": warns_at,
        }


def key_of(rule: Rule, start: float) -> str:
    return f"limits:{rule.id}:{int(start)}"
