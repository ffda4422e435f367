"""Scaling decisions, single ones and along a day of made-up load."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from planner.scaling import PERIOD_SECONDS, UP_SECONDS, Decision, Goal, Load, Memory, decide

LOOK_SECONDS = 3.0


def make_goal(**changes) -> Goal:
    values = {
        "min_replicas": 1,
        "max_replicas": 10,
        "target_concurrency": 8.0,
        "scale_down_after_seconds": 120.0,
    }
    return Goal(**values | changes)


@dataclass
class Simulation:
    """Replicas that take a while to start, looked at every few seconds."""

    goal: Goal
    start_seconds: float = 30.0
    desired: int = 1
    now: float = 1_000_000.0
    memory: Memory = field(default_factory=Memory)
    ready_at: list[float] = field(default_factory=lambda: [0.0])
    changes: list[tuple[float, int, int]] = field(default_factory=list)  # when, from, to

    @property
    def ready(self) -> int:
        return sum(at <= self.now for at in self.ready_at)

    def look(self, load: Load | None) -> Decision:
        decision = decide(
            goal=self.goal,
            load=load,
            desired=self.desired,
            ready=self.ready,
            memory=self.memory,
            now=self.now,
        )
        self.memory = decision.memory
        if decision.replicas != self.desired:
            self.changes.append((self.now, self.desired, decision.replicas))
            while len(self.ready_at) < decision.replicas:
                self.ready_at.append(self.now + self.start_seconds)
            del self.ready_at[decision.replicas :]
            self.desired = decision.replicas
        self.now += LOOK_SECONDS
        return decision

    def run(self, seconds: float, requests: Callable[[float], int]) -> None:
        """`requests` tells how many are open, by the time since the beginning of this run."""
        began = self.now
        while self.now - began < seconds:
            open_now = requests(self.now - began)
            in_flight = open_now if self.ready else 0
            held = open_now - in_flight
            self.look(Load(in_flight=in_flight, held=held, is_idle=not open_now))

    @property
    def turns(self) -> int:
        """How often it changed its mind about the direction."""
        ups = [after > before for _, before, after in self.changes]
        return sum(a != b for a, b in itertools.pairwise(ups))


def test_a_lasting_demand_is_met_by_doubling_and_no_more_than_asked_for() -> None:
    simulation = Simulation(make_goal())
    simulation.run(120, lambda _: 37)
    assert [(before, after) for _, before, after in simulation.changes] == [(1, 2), (2, 4), (4, 5)]
    first, second, _ = (at for at, _, _ in simulation.changes)
    assert first - 1_000_000 >= UP_SECONDS
    assert second - first >= PERIOD_SECONDS


def test_the_reason_is_said_in_numbers() -> None:
    memory = Memory(above_since=0.0, above_least=4)
    decision = decide(
        goal=make_goal(),
        load=Load(in_flight=20, held=9),
        desired=2,
        ready=2,
        memory=memory,
        now=100.0,
    )
    assert decision.message == "2 -> 4: 20 requests in flight and 9 held, target 8 a replica"


def test_a_short_peak_moves_nothing() -> None:
    simulation = Simulation(make_goal())
    simulation.run(300, lambda at: 60 if at % 60 < UP_SECONDS - 1 else 5)
    assert not simulation.changes


def test_noise_around_a_threshold_does_not_flap() -> None:
    chance = random.Random(7)
    simulation = Simulation(make_goal())
    simulation.run(3600, lambda _: max(0, round(chance.gauss(16, 4))))
    assert simulation.turns <= 1
    assert len(simulation.changes) <= 4


def test_a_day_in_an_hour_follows_the_load_with_two_turns() -> None:
    chance = random.Random(3)
    simulation = Simulation(make_goal())

    def load(at: float) -> int:
        wave = 40 - 38 * math.cos(2 * math.pi * at / 3600)
        return max(0, round(wave * chance.uniform(0.8, 1.2)))

    short = []
    began = simulation.now
    while simulation.now - began < 7200:
        at = simulation.now - began
        open_now = load(at)
        simulation.look(Load(in_flight=open_now))
        short.append(open_now > 1.5 * 8 * simulation.ready)
    assert simulation.turns == 3  # up, down, up, down
    assert max(after for _, _, after in simulation.changes) >= 9
    assert sum(short) / len(short) < 0.05


def test_downwards_the_highest_demand_of_the_window_counts() -> None:
    simulation = Simulation(make_goal(), desired=5, ready_at=[0.0] * 5)
    simulation.run(118, lambda at: 20 if at > 100 else 2)
    assert not simulation.changes
    simulation.run(30, lambda _: 2)
    assert [(before, after) for _, before, after in simulation.changes] == [(5, 3)]
    simulation.run(200, lambda _: 2)
    assert simulation.desired == 1


def test_it_sleeps_when_idle_and_wakes_at_once() -> None:
    goal = make_goal(min_replicas=0, idle_seconds=60.0)
    simulation = Simulation(goal)
    simulation.run(30, lambda _: 3)
    simulation.run(59, lambda _: 0)
    assert simulation.desired == 1
    simulation.run(10, lambda _: 0)
    assert (simulation.desired, simulation.changes[-1][1:]) == (0, (1, 0))
    simulation.run(300, lambda _: 0)
    assert simulation.desired == 0
    decision = simulation.look(Load(in_flight=0, held=1))
    assert decision.replicas == 1
    assert "1 held" in decision.message


def test_what_still_ends_on_leaving_replicas_wakes_nobody() -> None:
    simulation = Simulation(make_goal(min_replicas=0, idle_seconds=60.0), desired=0)
    assert simulation.look(Load(in_flight=8)).reason == "asleep"


def test_a_start_that_takes_longer_than_idleness_is_not_idle() -> None:
    goal = make_goal(min_replicas=0, idle_seconds=20.0)
    simulation = Simulation(goal, start_seconds=100.0, ready_at=[], desired=0)
    simulation.look(Load(in_flight=0, held=1))
    simulation.run(99, lambda _: 0)
    assert simulation.desired == 1
    simulation.run(30, lambda _: 0)
    assert simulation.desired == 0


@pytest.mark.parametrize(("least", "idle_seconds"), [(0, None), (1, 30.0)])
def test_without_leave_to_sleep_one_stays(least: int, idle_seconds: float | None) -> None:
    simulation = Simulation(make_goal(min_replicas=least, idle_seconds=idle_seconds))
    simulation.run(1000, lambda _: 0)
    assert simulation.desired == 1


def test_missing_signals_change_nothing_and_start_the_clocks_anew() -> None:
    goal = make_goal(min_replicas=0, idle_seconds=60.0)
    simulation = Simulation(goal, desired=4, ready_at=[0.0] * 4)
    simulation.run(50, lambda _: 0)
    for _ in range(100):
        assert simulation.look(None).reason == "no_signals"
    simulation.run(50, lambda _: 0)
    assert simulation.desired == 4
    simulation.run(20, lambda _: 0)
    assert simulation.desired == 0


@pytest.mark.parametrize("load", [None, Load(in_flight=0)])
def test_limits_hold_whatever_the_load(load: Load | None) -> None:
    goal = make_goal(min_replicas=3, max_replicas=5)
    assert Simulation(goal, desired=0, ready_at=[]).look(load).replicas == 3
    assert Simulation(goal, desired=9).look(load).replicas == 5
    assert Simulation(goal, desired=4).look(load).replicas == 4


def test_a_slow_first_token_adds_replicas_one_pause_at_a_time() -> None:
    goal = make_goal(target_first_token_seconds=1.0)
    simulation = Simulation(goal, desired=2, ready_at=[0.0] * 2, start_seconds=10.0)
    slow = Load(in_flight=12, first_token_seconds=1.4)  # concurrency alone: 2 replicas
    for _ in range(20):
        simulation.look(slow)
    assert [after for _, _, after in simulation.changes] == [3]
    for _ in range(20):
        simulation.look(slow)
    assert [after for _, _, after in simulation.changes] == [3, 5]


def test_more_replicas_than_requests_help_nobody() -> None:
    goal = make_goal(target_first_token_seconds=1.0)
    simulation = Simulation(goal, desired=2, ready_at=[0.0] * 2)
    for _ in range(20):
        simulation.look(Load(in_flight=2, first_token_seconds=9.0))
    assert simulation.desired == 2


def test_nothing_is_taken_away_while_the_first_token_is_near_its_target() -> None:
    goal = make_goal(target_first_token_seconds=1.0, scale_down_after_seconds=30.0)
    simulation = Simulation(goal, desired=3, ready_at=[0.0] * 3)
    for _ in range(40):
        simulation.look(Load(in_flight=8, first_token_seconds=0.9))
    assert simulation.desired == 3
    for _ in range(40):
        simulation.look(Load(in_flight=8, first_token_seconds=0.3))
    assert simulation.desired == 1
