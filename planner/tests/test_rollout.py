"""Rollouts: single looks, and whole ones played through on replicas of paper."""

import itertools
from dataclasses import replace

import pytest

from planner.rollout import Plan, Side, Sight, Step, Traffic, Z, decide, judge, wilson

SURGE = Plan(deadline_seconds=100)
REPLACE = replace(SURGE, max_surge=0, max_unavailable=1)
WIDE = replace(SURGE, max_surge=3)
BOTH = replace(SURGE, max_surge=1, max_unavailable=2)
AT_ONCE = replace(SURGE, steps=(Step(100, 30),))
PLANS = [SURGE, REPLACE, WIDE, BOTH, AT_ONCE, replace(AT_ONCE, max_surge=0, max_unavailable=1)]


class Paper:
    """Replicas that start within a tick; a full pool holds `accelerators` of them."""

    def __init__(self, plan: Plan, wanted: int, *, accelerators: int = 1000) -> None:
        self.plan, self.accelerators = plan, accelerators
        self.promises = True  # as many are ready as the plan says
        self.old = {"ready": wanted, "live": wanted}
        self.new = {"ready": 0, "live": 0}
        self.sight = Sight(
            wanted=wanted, old=Side(live=wanted, ready=wanted), new=Side(), step=0, weight=0
        )
        self.over = ""

    def tick(self, *, seconds: float = 0.0, **changes) -> None:
        """Replicas get ready where there is room, then one look."""
        for side in (self.old, self.new):
            held = self.old["ready"] + self.new["ready"]
            side["ready"] += min(side["live"] - side["ready"], self.accelerators - held)
        old, new = (Side(live=each["live"], ready=each["ready"]) for each in (self.old, self.new))
        baked = self.sight.baked_seconds + seconds
        before = self.sight
        self.sight = replace(before, old=old, new=new, baked_seconds=baked, **changes)
        self.check_capacity()
        seen = decide(self.plan, self.sight)
        for side, wanted in ((self.old, seen.old_wanted), (self.new, seen.new_wanted)):
            side["live"] = wanted
            side["ready"] = min(side["ready"], wanted)
        self.sight = replace(
            self.sight,
            weight=seen.weight,
            step=seen.step,
            baked_seconds=0.0 if seen.step != before.step else baked,
            turned_back=self.sight.turned_back or seen.turn_back,
        )
        if seen.is_complete:
            self.over = "complete"
        elif seen.is_back:
            self.over = "back"
        else:
            self.check_weights()

    def check_capacity(self) -> None:
        wanted, plan = self.sight.wanted, self.plan
        assert self.old["live"] + self.new["live"] <= wanted + plan.max_surge or self.is_back
        ready = self.old["ready"] + self.new["ready"]
        if self.promises:
            assert ready >= wanted - plan.max_unavailable, "fewer than promised are ready"

    @property
    def is_back(self) -> bool:
        return bool(self.sight.turned_back)

    def check_weights(self) -> None:
        """Weights go to those who can carry them; on the way there within one replica's share."""
        weight, wanted = self.sight.weight, self.sight.wanted
        assert 0 <= weight <= 100
        if weight and not self.is_back:
            assert self.new["ready"] > 0
            carried = 100 * self.new["ready"] / wanted
            assert weight <= max(carried, 100 * self.new["ready"] / (self.new["live"] or 1)) + 1

    def play(self, *, most: int = 200) -> list[int]:
        """To its end; the weights on the way."""
        weights = []
        for _ in range(most):
            self.tick(seconds=20.0)
            weights.append(self.sight.weight)
            if self.over:
                return weights
        raise AssertionError(f"no end: {self.sight}")


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("is_full", [False, True])
def test_it_goes_through_with_as_many_ready_as_promised(
    plan: Plan, wanted: int, is_full: bool
) -> None:
    paper = Paper(plan, wanted, accelerators=wanted + plan.max_surge if is_full else 1000)
    weights = paper.play()
    assert paper.over == "complete"
    assert paper.new == {"live": wanted, "ready": wanted}
    assert weights == sorted(weights)
    assert set(weights) >= {step.weight for step in plan.steps} or plan.max_surge == 0


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("wanted", [1, 2, 4])
@pytest.mark.parametrize("reason", ["aborted", "superseded", "errors", "slow_first_token"])
def test_it_comes_back_from_every_point(plan: Plan, wanted: int, reason: str) -> None:
    for at in itertools.count():
        paper = Paper(plan, wanted, accelerators=wanted + plan.max_surge)
        for _ in range(at):
            paper.tick(seconds=20.0)
            if paper.over:
                assert at > len(plan.steps)
                return
        if reason == "errors":
            paper.promises = False  # few good ones are better than many bad ones
        before = paper.sight.weight
        paper.tick(turned_back=reason)
        assert paper.sight.weight <= before
        if not paper.over:
            assert max(paper.play()) <= before
        assert paper.over == "back"
        assert (paper.sight.weight, paper.new["live"]) == (0, 0)
        assert paper.old["live"] == wanted


def sight(**changes) -> Sight:
    whole = Side(live=2, ready=2)
    return replace(
        Sight(wanted=2, old=whole, new=Side(live=1, ready=1), step=1, weight=10), **changes
    )


def test_a_step_is_entered_only_once_its_replicas_are_ready() -> None:
    waiting = decide(SURGE, sight(step=0, weight=0, new=Side(live=1)))
    assert (waiting.step, waiting.weight, waiting.waits_for) == (0, 0, "replicas")
    assert (waiting.old_wanted, waiting.new_wanted) == (2, 1)
    entered = decide(SURGE, sight(step=0, weight=0))
    assert (entered.step, entered.weight) == (1, 10)


def test_a_step_bakes_for_its_time_and_while_nothing_is_measured() -> None:
    assert decide(SURGE, sight(baked_seconds=59)).step == 1
    assert decide(SURGE, sight(baked_seconds=59)).waits_for == "baking"
    assert decide(SURGE, sight(baked_seconds=60)).step == 2
    blind = decide(SURGE, sight(baked_seconds=600, is_measured=False))
    assert (blind.step, blind.waits_for) == (1, "measurements")


def test_paused_nothing_moves_and_faults_still_count() -> None:
    held = decide(SURGE, sight(baked_seconds=600, is_paused=True, stalled_seconds=1e6))
    assert (held.step, held.weight, held.waits_for) == (1, 10, "person")
    assert (held.old_wanted, held.new_wanted) == (2, 1)
    last = sight(step=3, weight=100, baked_seconds=600, is_paused=True, new=Side(live=2, ready=2))
    assert not decide(SURGE, last).is_complete
    assert decide(SURGE, sight(is_paused=True, failures=3)).turn_back == "crash_loop"


def test_paused_between_two_steps_both_sides_keep_what_carries_them() -> None:
    four = sight(
        wanted=4, step=2, weight=60, old=Side(live=2, ready=2), new=Side(live=3, ready=3),
        is_paused=True,
    )  # fmt: skip
    held = decide(SURGE, four)
    assert (held.weight, held.old_wanted, held.new_wanted) == (60, 2, 3)


def test_promoted_it_waits_for_replicas_alone() -> None:
    going = decide(SURGE, sight(is_promoted=True))
    assert (going.step, going.new_wanted, going.is_complete) == (1, 2, False)
    assert decide(SURGE, sight(is_promoted=True, new=Side(live=2, ready=2))).is_complete
    worse = Traffic(requests=100, errors=100)
    assert not decide(
        SURGE, sight(is_promoted=True, new=Side(live=1, ready=1, traffic=worse))
    ).turn_back


def test_the_last_step_waits_for_a_verdict() -> None:
    gated = replace(SURGE, is_gated=True)
    before = sight(step=2, weight=50, baked_seconds=600, stalled_seconds=1e6)
    held = decide(gated, before)
    assert (held.step, held.weight, held.waits_for, held.turn_back) == (2, 50, "gate", "")
    passed = decide(gated, replace(before, gate="passed", stalled_seconds=0))
    assert passed.new_wanted == 2
    assert decide(gated, replace(before, gate="failed")).turn_back == "gate_failed"
    alone = replace(gated, steps=(Step(100, 0),))
    first = decide(alone, sight(step=0, weight=0, new=Side(live=1, ready=1)))
    assert (first.weight, first.new_wanted, first.waits_for) == (0, 1, "gate")


def test_no_progress_until_the_deadline_goes_back() -> None:
    waiting = sight(step=0, weight=0, new=Side(live=1), stalled_seconds=101)
    seen = decide(SURGE, waiting)
    assert (seen.turn_back, seen.is_back, seen.new_wanted) == ("deadline", True, 0)
    assert decide(SURGE, sight(stalled_seconds=101, baked_seconds=10)).turn_back == ""


def test_with_none_wanted_it_is_done() -> None:
    assert decide(SURGE, sight(wanted=0, has_been_ready=True)).is_complete
    unproven = decide(SURGE, sight(wanted=0, new=Side(live=1)))
    assert (unproven.turn_back, unproven.is_back) == ("not_proven", True)
    assert decide(SURGE, sight(wanted=0, turned_back="errors")).is_back


def test_failed_new_replicas_lose_their_share_until_they_are_back() -> None:
    fewer = sight(wanted=4, step=2, weight=50, old=Side(live=3, ready=3), new=Side(live=2, ready=1))
    seen = decide(SURGE, fewer)
    assert (seen.step, seen.weight) == (2, 25)
    assert (seen.old_wanted, seen.new_wanted) == (3, 2)


def test_without_old_ones_even_a_faulty_side_is_kept() -> None:
    alone = sight(old=Side(live=2), new=Side(live=2, ready=2), weight=100, turned_back="errors")
    seen = decide(SURGE, alone)
    assert (seen.new_wanted, seen.is_back) == (2, False)
    back = decide(SURGE, replace(alone, old=Side(live=2, ready=1)))
    assert (back.weight, back.new_wanted, back.is_back) == (0, 0, True)
    assert decide(SURGE, replace(alone, stalled_seconds=101)).is_back


def traffic(requests: int, errors: int = 0, first: float | None = None) -> Traffic:
    return Traffic(
        requests=requests, errors=errors, first_tokens=requests, first_token_seconds=first
    )


@pytest.mark.parametrize(
    ("new", "old", "reason"),
    [
        (traffic(19, 19), traffic(1000), ""),  # too few to say anything
        (traffic(20, 20), traffic(0), "errors"),
        (traffic(20, 1), traffic(1000), ""),  # chance
        (traffic(20, 3), traffic(0), ""),  # within chance of the limit
        (traffic(1000, 30), traffic(1000), "errors"),  # under the limit, worse than before
        (traffic(1000, 30), traffic(1000, 25), ""),
        (traffic(1000, 200), traffic(1000, 400), ""),  # above the limit, better than before
        (traffic(1000, 200), traffic(10, 10), "errors"),  # nothing to compare with
    ],
)
def test_errors_count_where_they_are_more_than_chance(
    new: Traffic, old: Traffic, reason: str
) -> None:
    worse = judge(SURGE, new=new, old=old)
    assert (worse[0] if worse else "") == reason


@pytest.mark.parametrize(
    ("new", "old", "limit", "reason"),
    [
        (0.5, 0.4, None, ""),
        (0.95, 0.4, None, "slow_first_token"),
        (0.09, 0.01, None, ""),  # nine times nothing
        (2.0, 1.5, 1.8, "slow_first_token"),
        (2.0, 2.1, 1.8, ""),  # the old side is as slow
        (2.0, None, 1.8, "slow_first_token"),
        (9.0, None, None, ""),  # nothing to compare with, no limit
    ],
)
def test_the_first_token_is_held_to_a_limit_and_to_the_old_side(
    new: float, old: float | None, limit: float | None, reason: str
) -> None:
    plan = replace(SURGE, max_first_token_seconds=limit)
    before = traffic(0) if old is None else traffic(50, first=old)
    worse = judge(plan, new=traffic(50, first=new), old=before)
    assert (worse[0] if worse else "") == reason
    assert judge(plan, new=traffic(19, first=new), old=before) is None


def test_wilsons_interval_holds_the_share() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(5, 100)
    assert low < 0.05 < high
    assert wilson(50, 1000)[1] - wilson(50, 1000)[0] < high - low
    for end in (low, high):  # what defines the interval
        assert (0.05 - end) ** 2 == pytest.approx(Z**2 * end * (1 - end) / 100)
