"""Which step of a rollout follows from what is seen. Pure: the same look gives the same answer.

A rollout replaces the replicas of one variant (old) by those of another (new). It goes through
steps, each a share of the traffic that the new side gets for a time. A step is entered once
enough new replicas are ready for its share. On the way from one step to the next the weights follow
the replicas that are ready, so that no side is ever asked for more than it can carry. A weight is
a wish: a side without ready replicas is not routed to, and the other one then gets everything.

Two numbers bound the replicas, as in Kubernetes' rolling updates: old and new together are at most
`max_surge` more than wanted, and those that are ready at most `max_unavailable` fewer.
"""

import math
from dataclasses import dataclass, replace

Z = 2.576  # 99.5 % on each side: it is looked at every few seconds, and chance must not decide
FIRST_TOKEN_SLACK_SECONDS = 0.1  # below it a difference is nobody's business
BROKEN = frozenset({"errors", "crash_loop"})  # even few old replicas answer better than that


@dataclass(frozen=True)
class Step:
    """The new side gets `weight` percent of the traffic for `bake_seconds`."""

    weight: int
    bake_seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a rollout goes. The last step has weight 100. One of the two bounds is at least 1."""

    steps: tuple[Step, ...] = (Step(10, 60.0), Step(50, 60.0), Step(100, 60.0))
    max_surge: int = 1
    max_unavailable: int = 0
    max_failures: int = 3  # new replicas that fail in a row
    deadline_seconds: float = 1200.0  # without any progress, while replicas are waited for
    min_requests: int = 20  # on a side, before its measurements count
    max_error_share: float = 0.05
    error_ratio: float = 2.0  # times the old side's share
    max_first_token_seconds: float | None = None  # p90
    first_token_ratio: float = 2.0  # times the old side's p90
    is_gated: bool = False  # one step is not entered without a verdict
    gated_step: int | None = None  # which, from 1; None: the last

    def weight(self, step: int) -> int:
        """Of the step by its number from 1; 0 before the first."""
        return self.steps[step - 1].weight if step else 0


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What was measured on one side. `first_token_seconds`: p90 of so many `first_tokens`."""

    requests: int = 0
    errors: int = 0
    first_tokens: int = 0
    first_token_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Side:
    """Replicas of one variant that are not being let go: all of them, and those that are ready."""

    live: int = 0
    ready: int = 0
    traffic: Traffic = Traffic()


@dataclass(frozen=True, kw_only=True)
class Sight:
    """All that decides. Times are in seconds."""

    wanted: int  # replicas, when nothing is changing
    old: Side
    new: Side
    step: int  # the step entered last, from 1; 0 before the first
    weight: int  # percent of the traffic that new replicas get now
    baked_seconds: float = 0.0  # in this step, pauses left out
    stalled_seconds: float = 0.0  # since something last went forward
    has_been_ready: bool = False  # a new replica, at any time
    failures: int = 0  # of new replicas, in a row
    is_measured: bool = True  # False: measurements cannot be read now
    is_paused: bool = False
    is_promoted: bool = False  # a person wants it whole, without waiting
    gate: str = ""  # "passed", "failed", or no verdict yet
    turned_back: str = ""  # why it goes back, once that is decided or asked


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do next. `waits_for`: baking, measurements, replicas, gate, a person; for people."""

    step: int
    weight: int
    old_wanted: int
    new_wanted: int
    is_complete: bool = False
    turn_back: str = ""  # the reason; with it, numbers are those of the way back
    message: str = ""
    is_back: bool = False  # the way back is over
    waits_for: str = ""


def decide(plan: Plan, sight: Sight) -> Decision:
    """One look at a rollout that has begun."""
    if sight.turned_back:
        return _go_back(plan, sight)
    if sight.wanted == 0 and sight.has_been_ready and not _lacks_verdict(plan, sight):
        return _complete(plan, sight)  # nothing is served, and the new is able to
    verdict = _find_fault(plan, sight)
    if verdict is not None:
        reason, message = verdict
        back = _go_back(plan, replace(sight, turned_back=reason))
        return replace(back, turn_back=reason, message=message)
    return _go_on(plan, sight)


def _find_fault(plan: Plan, sight: Sight) -> tuple[str, str] | None:
    if sight.wanted == 0:
        lacks = (
            "the evaluation has not been passed" if sight.has_been_ready else "no new one was ready"
        )
        return "not_proven", f"No replica is wanted any more, and {lacks} yet."
    if sight.failures >= plan.max_failures:
        return "crash_loop", f"{sight.failures} new replicas failed in a row."
    if sight.gate == "failed":
        return "gate_failed", "The evaluation that it waited for was not passed."
    if not sight.is_promoted:  # a person has decided to live with what is measured
        worse = judge(plan, new=sight.new.traffic, old=sight.old.traffic)
        if worse is not None:
            return worse
    if (
        sight.stalled_seconds > plan.deadline_seconds
        and not sight.is_paused
        and sight.new.ready < _goal(sight.wanted, _carried(plan, sight))
    ):
        return (
            "deadline",
            f"Nothing went forward for {plan.deadline_seconds:.0f} s: "
            f"{sight.new.ready} new replicas are ready.",
        )
    return None


def judge(plan: Plan, *, new: Traffic, old: Traffic) -> tuple[str, str] | None:
    """Reason and sentence if the new side is worse than allowed; None while nothing says so.

    Error shares are compared by the ends of their confidence intervals (Wilson's), so that chance
    does not decide: the new side's lower end against the limit, and against the old side's upper
    end. A limit that the old side breaks as well is no reason to go back to it.
    """
    if new.requests >= plan.min_requests:
        least = wilson(new.errors, new.requests)[0]
        compares = old.requests >= plan.min_requests
        before = old.errors / old.requests if compares else 0.0
        most_before = wilson(old.errors, old.requests)[1] if compares else math.inf
        if least > max(plan.max_error_share, before) or least > plan.error_ratio * most_before:
            told = f"{new.errors} of {new.requests} requests failed on new replicas"
            beside = f", {old.errors} of {old.requests} on old ones" if old.requests else ""
            return "errors", f"{told}{beside}."
    if new.first_tokens >= plan.min_requests and new.first_token_seconds is not None:
        now, limit = new.first_token_seconds, plan.max_first_token_seconds
        compares = old.first_tokens >= plan.min_requests
        was = (old.first_token_seconds or 0.0) if compares else None
        too_slow = limit is not None and now > limit and (was is None or now > was)
        if was is not None:
            too_slow |= now > was * plan.first_token_ratio + FIRST_TOKEN_SLACK_SECONDS
        if too_slow:
            beside = f", {was:.2f} s on old ones" if was is not None else ""
            return (
                "slow_first_token",
                f"The first token took {now:.2f} s (p90) on new replicas{beside}.",
            )
    return None


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The interval that holds the true share with 99 % confidence (Wilson, 1927)."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _go_on(plan: Plan, sight: Sight) -> Decision:
    last = len(plan.steps)
    aim = _aim(plan, sight)
    if aim > last:
        return _complete(plan, sight)
    if sight.is_promoted and sight.new.ready >= sight.wanted:
        return _complete(plan, sight)
    carried = _carried(plan, sight)
    goal = _goal(sight.wanted, carried)
    step, weight = sight.step, sight.weight
    if not _is_held(plan, sight):
        step, weight = _advance(plan, sight, aim=aim, goal=goal)
    old_wanted, new_wanted = _counts(plan, sight, goal=goal, weight=carried)
    return Decision(
        step=step,
        weight=weight,
        old_wanted=old_wanted,
        new_wanted=new_wanted,
        waits_for=_waits_for(plan, sight, is_short=sight.new.ready < goal),
    )


def _carried(plan: Plan, sight: Sight) -> int:
    """The weight that replicas are made ready for: the next step's, or while held the present."""
    return sight.weight if _is_held(plan, sight) else plan.weight(_aim(plan, sight))


def _is_held(plan: Plan, sight: Sight) -> bool:
    return sight.is_paused or _awaits_verdict(plan, sight)


def _awaits_verdict(plan: Plan, sight: Sight) -> bool:
    """Whether only a verdict is missing for the step that is gated."""
    if not _lacks_verdict(plan, sight):
        return False
    before = (plan.gated_step or len(plan.steps)) - 1
    return sight.step == before and (before == 0 or _is_baked(plan, sight))


def _lacks_verdict(plan: Plan, sight: Sight) -> bool:
    return plan.is_gated and sight.gate != "passed" and not sight.is_promoted


def _is_baked(plan: Plan, sight: Sight) -> bool:
    return sight.baked_seconds >= plan.steps[sight.step - 1].bake_seconds and sight.is_measured


def _advance(plan: Plan, sight: Sight, *, aim: int, goal: int) -> tuple[int, int]:
    """The step entered, and the weight: the step's own, or on the way what can be carried."""
    ready = sight.new.ready + sight.old.ready
    share = round(100 * sight.new.ready / ready) if ready else 0
    low, high = plan.weight(sight.step), plan.weight(aim)
    if aim > sight.step and sight.new.ready >= goal:
        return aim, high
    if sight.step and sight.new.ready < _goal(sight.wanted, low):  # some of them have failed
        return sight.step, min(low, share)
    return sight.step, min(max(low, share), high)


def _aim(plan: Plan, sight: Sight) -> int:
    """The step that replicas are made ready for; past the last one it is complete."""
    if sight.is_promoted:
        return len(plan.steps)
    if sight.step == 0 or sight.is_paused:
        return max(1, sight.step)
    goes_on = _is_baked(plan, sight) and not _awaits_verdict(plan, sight)
    return sight.step + 1 if goes_on else sight.step


def _goal(wanted: int, weight: int) -> int:
    """New replicas that a step of this weight needs."""
    return max(1, _share_of(wanted, weight))


def _share_of(wanted: int, weight: int) -> int:
    return math.ceil(wanted * weight / 100)


def _counts(plan: Plan, sight: Sight, *, goal: int, weight: int) -> tuple[int, int]:
    """Old and new replicas on the way to a step.

    Old ones stay as long as there is room for them, and as long as new ones are not ready in
    their place; a step below 100 keeps as many as its other share needs. What room there is beside
    them the new ones get, up to the goal.
    """
    room = sight.wanted + plan.max_surge
    beside = room - goal
    share = min(_share_of(sight.wanted, 100 - weight), beside)
    unreplaced = sight.wanted - plan.max_unavailable - sight.new.ready
    old = min(sight.wanted, max(share, beside, unreplaced, 0))
    return old, min(goal, room - old)


def _waits_for(plan: Plan, sight: Sight, *, is_short: bool) -> str:
    if sight.is_paused:
        return "person"
    if is_short:
        return "replicas"
    if _awaits_verdict(plan, sight):
        return "gate"
    return "baking" if sight.is_measured else "measurements"


def _complete(plan: Plan, sight: Sight) -> Decision:
    return Decision(
        step=len(plan.steps),
        weight=100,
        old_wanted=0,
        new_wanted=sight.wanted,
        is_complete=True,
    )


def _go_back(plan: Plan, sight: Sight) -> Decision:
    """Old replicas come back to full number. New ones keep what the old cannot carry yet, unless
    they are the fault; where no old one is ready, even a faulty answer is better than none."""
    missing = max(0, sight.wanted - sight.old.ready)
    is_leaving = sight.turned_back in BROKEN and sight.old.ready > 0
    is_overdue = sight.stalled_seconds > plan.deadline_seconds
    kept = 0
    if not is_leaving and not is_overdue:
        kept = min(sight.new.ready, max(0, missing - plan.max_unavailable))
    weight = min(sight.weight, round(100 * kept / sight.wanted)) if sight.wanted else 0
    if not weight and sight.old.ready:
        kept = 0
    return Decision(
        step=sight.step,
        weight=weight,
        old_wanted=sight.wanted,
        new_wanted=kept,
        is_back=not kept,
        waits_for="replicas" if kept else "",
    )
