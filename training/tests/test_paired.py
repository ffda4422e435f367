"""The paired bootstrap says better where it is, and not where chance would do."""

import time

import numpy as np
import pytest

from training.metrics import paired
from training.metrics.paired import compare, interval


def rows(wins: int, losses: int, ties: int) -> tuple[np.ndarray, np.ndarray]:
    baseline = np.array([0.0] * wins + [1.0] * losses + [1.0] * ties)
    candidate = np.array([1.0] * wins + [0.0] * losses + [1.0] * ties)
    return baseline, candidate


def test_a_clear_lead_is_told_from_chance() -> None:
    seen = compare(*rows(30, 5, 65))
    assert seen is not None
    assert (seen.wins, seen.losses, seen.ties, seen.pairs) == (30, 5, 65, 100)
    assert seen.difference == pytest.approx(0.25)
    # the normal interval of 0.25 with a standard error of sqrt(0.35 - 0.0625) / 10
    assert (seen.low, seen.high) == pytest.approx((0.145, 0.355), abs=0.02)
    assert seen.verdict == "better"
    unclear = compare(*rows(6, 4, 90))
    assert unclear is not None
    assert unclear.verdict == "unclear"
    worse = compare(*rows(5, 30, 65))
    assert worse is not None
    assert worse.verdict == "worse"


def test_less_may_be_better() -> None:
    baseline, candidate = np.full(50, 2.0), np.full(50, 1.5)
    candidate[0] = 2.5
    seen = compare(baseline, candidate, lower_is_better=True)
    assert seen is not None
    assert (seen.verdict, seen.wins, seen.losses) == ("better", 49, 1)
    assert seen.difference < 0


def test_lines_without_a_score_are_left_out() -> None:
    baseline, candidate = np.array([1.0, np.nan, 0.0]), np.array([np.nan, 1.0, 1.0])
    seen = compare(baseline, candidate)
    assert seen is not None
    assert (seen.pairs, seen.difference) == (1, 1.0)
    assert compare(np.array([np.nan]), np.array([1.0])) is None


def test_same_scores_and_seed_give_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, 500)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


@pytest.mark.parametrize("kinds", ["three", "many"])
def test_a_hundred_thousand_lines_are_quick_and_as_wide_as_theory_says(kinds: str) -> None:
    rng = np.random.default_rng(7)
    values = rng.choice([-1.0, 0.0, 1.0], 100_000, p=[0.1, 0.75, 0.15])
    if kinds == "many":
        values = values + rng.normal(0, 0.3, 100_000)
    began = time.process_time()
    low, high = interval(values)
    assert time.process_time() - began < 5
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_three_lines_give_the_interval_that_can_be_counted_out() -> None:
    # of 27 samples of (0, 0, 1) 8 have mean 0 and one has mean 1: both tails hold more than 2.5 %
    assert interval(np.array([0.0, 0.0, 1.0])) == (0.0, 1.0)
    # of (0, 0, 0, 0, 0, 1) samples without the 1 are (5/6)^6 = 33 %, those with three or more of it
    # 6.2 %, with four or more 0.9 %: the upper end is three sixths
    assert list(interval(np.array([0.0] * 5 + [1.0]))) == pytest.approx([0.0, 0.5])


def test_where_all_lines_are_tied_nobody_is_better() -> None:
    same = np.array([0.3, 1.0, 0.0])
    seen = compare(same, same)
    assert seen is not None
    assert (seen.low, seen.high, seen.verdict, seen.ties) == (0.0, 0.0, "unclear", 3)


def test_pairs_and_not_sides_are_drawn() -> None:
    easy = np.linspace(0, 1, 200)  # the lines differ widely, the models by a hair on every line
    seen = compare(easy, easy + 0.01)
    assert seen is not None
    assert [seen.low, seen.high] == pytest.approx([0.01, 0.01])
    assert seen.verdict == "better"


@pytest.mark.parametrize(("lines", "least"), [(20, 0.91), (100, 0.92)])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    lines: int, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 1000)
    rng = np.random.default_rng(5)
    shares = [0.2, 0.5, 0.3]  # lost, tied, won: the true lead is 0.1
    rounds, held = 400, 0
    for number in range(rounds):
        low, high = interval(rng.choice([-1.0, 0.0, 1.0], lines, p=shares), seed=number)
        held += low <= 0.1 + 1e-9 and high >= 0.1 - 1e-9
    assert least <= held / rounds <= 0.985
