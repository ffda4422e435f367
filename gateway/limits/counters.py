"""One limit in one of its periods, as this process sees it."""

import math
from typing import Any

from accounts.limit_periods import counter_key
from gateway.limits.rules import Demand, Rule

DAY = 86_400
MOST_STORED = 512  # requests that may be let in without asking Redis
STORED_SECONDS = 0.2  # for how long what is stored should last
PACE_SECONDS = 0.5  # over which the pace of requests is averaged
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
        "pace",
        "paced_at",
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
        self.pace = 0.0  # requests a second, lately
        self.paced_at = 0.0  # until when that was counted (monotonic)
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
            if self.rule.period == "minute":  # a rate never refuses a request for good
                return min(demand.expected_tokens, self.rule.amount)
            return demand.tokens
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

    def turn(self, now: float, *, moment: float) -> dict[str, Any]:
        """Its part of the next turn (see counting.lua), which takes `used` along. `moment` is
        monotonic."""
        rule, used = self.rule, self.used
        scarce = max(self.need * SCARCE_REQUESTS, math.ceil(rule.amount * SCARCE_SHARE))
        wanted = 0
        requests = min(MOST_STORED, round(self._keep_pace(moment) * STORED_SECONDS))
        if requests > 1 and now < self.end and self.free <= self.need * requests // 2:
            wanted = self.need * requests
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

    def _keep_pace(self, moment: float) -> float:
        """The pace up to now."""
        passed = max(1e-3, moment - self.paced_at)
        past = math.exp(-passed / PACE_SECONDS)
        self.pace = self.pace * past + self.entered / passed * (1 - past)
        self.paced_at = moment
        return self.pace


def key_of(rule: Rule, start: float) -> str:
    return counter_key(rule.id, start)
