"""How many replicas a load asks for: pure, one look at a time, with a memory of the looks before.

Replicas follow from requests: those in flight and those held for want of a replica, divided by how
many one replica should have. Where a target for the time to the first token is given and missed,
more are added even so. Upwards a demand must last for a few seconds and at most doubles what there
is in a period; downwards the highest demand of a longer time counts. Missing signals change
nothing, but limits hold always.
"""

import math
from dataclasses import dataclass, replace

UP_SECONDS = 5.0  # a demand for more lasts so long before it is met; from none it is met at once
PERIOD_SECONDS = 15.0  # in which replicas at most double
FIRST_TOKEN_PAUSE_SECONDS = 75.0  # after a raise: what is measured over a minute speaks of before
FIRST_TOKEN_CONTENT = 0.8  # of the target: above it nothing is taken away


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is wanted at this moment, schedules considered. `target_concurrency`: requests in flight
    on one replica; `idle_seconds`: without requests for so long, no replica is left, if the minimum
    is none; None: one always is."""

    min_replicas: int
    max_replicas: int
    target_concurrency: float
    target_first_token_seconds: float | None = None
    scale_down_after_seconds: float = 300.0
    idle_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Load:
    """What gateways see. `first_token_seconds`: p95 of the last minute, None without streams;
    `is_idle`: nothing is open, and nothing ended within the last half minute."""

    in_flight: int
    held: int = 0
    first_token_seconds: float | None = None
    is_idle: bool = False

    @property
    def requests(self) -> int:
        return self.in_flight + self.held


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What earlier looks leave for later ones. Times are seconds since 1970."""

    raised_at: float = 0.0
    above_since: float | None = None  # more were wanted at every look since, at least so many:
    above_least: int = 0
    below_since: float | None = None  # fewer were wanted at every look since, at most so many:
    below_most: int = 0
    idle_since: float | None = None

    def settled(self, *, raised_at: float | None = None) -> "Memory":
        """After a change: the next one begins from nothing."""
        return Memory(raised_at=self.raised_at if raised_at is None else raised_at)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`replicas` to want from now on, why (a code, and words for people), and the new memory."""

    replicas: int
    reason: str
    message: str
    memory: Memory


def decide(
    *, goal: Goal, load: Load | None, desired: int, ready: int, memory: Memory, now: float
) -> Decision:
    """One look. `desired` are wanted now, those that are still starting included; `ready` answer.
    `load` is None while nobody knows it."""
    if desired < goal.min_replicas:
        message = f"at least {goal.min_replicas} are wanted now"
        settled = memory.settled(raised_at=now)
        return _to(goal.min_replicas, desired, "min_replicas", message, settled)
    if desired > goal.max_replicas:
        message = f"at most {goal.max_replicas} are wanted now"
        return _to(goal.max_replicas, desired, "max_replicas", message, memory.settled())
    if load is None:
        message = "no gateway tells of its requests; nothing is changed"
        return Decision(
            replicas=desired, reason="no_signals", message=message, memory=memory.settled()
        )
    memory = _remember_idle(goal, load, ready=ready, memory=memory, now=now)
    wanted, reason, why = _wanted(goal, load, desired=desired, ready=ready, memory=memory, now=now)
    if wanted > desired:
        return _raise(wanted, reason, why, desired=desired, memory=memory, now=now)
    if wanted < desired:
        return _lower(goal, wanted, reason, why, desired=desired, memory=memory, now=now)
    return Decision(
        replicas=desired,
        reason=reason,
        message=why,
        memory=replace(memory, above_since=None, below_since=None),
    )


def _remember_idle(goal: Goal, load: Load, *, ready: int, memory: Memory, now: float) -> Memory:
    """Idleness begins with a replica that could answer: a slow start is not idleness."""
    if goal.min_replicas or goal.idle_seconds is None or not load.is_idle or not ready:
        return replace(memory, idle_since=None)
    return memory if memory.idle_since is not None else replace(memory, idle_since=now)


def _wanted(
    goal: Goal, load: Load, *, desired: int, ready: int, memory: Memory, now: float
) -> tuple[int, str, str]:
    """How many the load of this look asks for, within the limits."""
    by_load = math.ceil(load.requests / goal.target_concurrency)
    held = f" and {load.held} held" if load.held else ""
    why = f"{load.in_flight} requests in flight{held}, target {goal.target_concurrency:g} a replica"
    reason, wanted = "concurrency", by_load
    if not goal.max_replicas:
        return 0, "max_replicas", "at most 0 are wanted now"
    if desired == 0 and not load.held:  # what is in flight ends on replicas that are leaving
        return 0, "asleep", "asleep until the next request"
    if memory.idle_since is not None and goal.idle_seconds is not None:
        idle = now - memory.idle_since
        if idle >= goal.idle_seconds:
            return 0, "idle", f"no request for {idle:.0f} s"
    by_wait = _by_first_token(goal, load, desired=desired, ready=ready, memory=memory, now=now)
    if by_wait > wanted:
        seen, target = load.first_token_seconds, goal.target_first_token_seconds
        why = f"p95 of the time to the first token is {seen:.2f} s, target {target:.2f} s"
        reason, wanted = "first_token", by_wait
    return max(min(wanted, goal.max_replicas), goal.min_replicas, 1), reason, why


def _by_first_token(
    goal: Goal, load: Load, *, desired: int, ready: int, memory: Memory, now: float
) -> int:
    """More replicas cannot help requests that are alone on theirs, and those that were added must
    have shown what they do before more follow."""
    seen, target = load.first_token_seconds, goal.target_first_token_seconds
    if seen is None or target is None or load.requests <= ready:
        return 0
    if seen > target:
        is_known = ready >= desired and now - memory.raised_at >= FIRST_TOKEN_PAUSE_SECONDS
        more = math.ceil(desired * min(2.0, seen / target)) if is_known else desired
        return min(more, load.requests)
    return min(desired, load.requests) if seen > target * FIRST_TOKEN_CONTENT else 0


def _raise(
    wanted: int, reason: str, why: str, *, desired: int, memory: Memory, now: float
) -> Decision:
    since, least = memory.above_since, min(memory.above_least, wanted)
    if since is None:
        since, least = now, wanted
    memory = replace(memory, above_since=since, above_least=least, below_since=None)
    is_lasting = now - since >= UP_SECONDS and now - memory.raised_at >= PERIOD_SECONDS
    if desired and not is_lasting:
        return Decision(replicas=desired, reason=reason, message=why, memory=memory)
    to = min(least, max(1, 2 * desired))
    return _to(to, desired, reason, why, memory.settled(raised_at=now))


def _lower(
    goal: Goal, wanted: int, reason: str, why: str, *, desired: int, memory: Memory, now: float
) -> Decision:
    if wanted == 0:  # idleness has waited for long enough
        return _to(0, desired, reason, why, memory.settled())
    since, most = memory.below_since, max(memory.below_most, wanted)
    if since is None:
        since, most = now, wanted
    memory = replace(memory, above_since=None, below_since=since, below_most=most)
    if now - since < goal.scale_down_after_seconds:
        return Decision(replicas=desired, reason=reason, message=why, memory=memory)
    settled = replace(memory.settled(), idle_since=memory.idle_since)
    return _to(most, desired, reason, why, settled)


def _to(replicas: int, desired: int, reason: str, why: str, memory: Memory) -> Decision:
    message = f"{desired} -> {replicas}: {why}"
    return Decision(replicas=replicas, reason=reason, message=message, memory=memory)
