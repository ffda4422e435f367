import random
from collections import Counter

import pytest

from trainer.batches import StepPlan
from trainer.spec import Hyperparameters

CHANCE = random.Random(1)
LENGTHS = [CHANCE.randint(5, 60) for _ in range(203)]


def plan(**given: object) -> StepPlan:
    return StepPlan(LENGTHS, Hyperparameters.from_json({"batch_size": 4} | given))


def indices(steps: StepPlan, numbers: range) -> list[int]:
    return [i for number in numbers for micro in steps.step(number) for i in micro]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_every_epoch_visits_every_example_once(packing: bool, accumulation: int) -> None:
    steps = plan(
        epochs=2, packing=packing, gradient_accumulation=accumulation, max_length_tokens=64
    )
    seen = Counter(indices(steps, range(steps.total_steps)))
    assert seen == dict.fromkeys(range(len(LENGTHS)), 2)
    assert steps.epoch(steps.total_steps) == 2.0


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    whole = plan(epochs=2)
    assert [whole.step(n) for n in (60, 3, 99)] == [plan(epochs=2).step(n) for n in (60, 3, 99)]
    half = whole.total_steps // 2
    assert indices(whole, range(half)) != indices(whole, range(half, 2 * half))
    assert whole.step(0) != plan(epochs=2, seed=43).step(0)


def test_packing_fills_rows_with_whole_examples() -> None:
    steps = plan(epochs=1, packing=True, max_length_tokens=64, gradient_accumulation=1)
    filled = [
        sum(LENGTHS[i] for micro in steps.step(number) for i in micro)
        for number in range(steps.total_steps)
    ]
    assert max(filled) <= 4 * 64
    assert sum(filled) > 0.85 * 4 * 64 * len(filled)
    assert steps.total_steps < 0.7 * plan(epochs=1).total_steps
    long = StepPlan([100, 20, 30], Hyperparameters(packing=True, max_length_tokens=64, epochs=1.0))
    assert sorted(long.step(0)[0]) == [0, 1, 2]  # longer than a row, and still in one of its own


def test_like_lengths_share_a_batch() -> None:
    steps = plan(epochs=1)
    batches = [micro for number in range(steps.total_steps) for micro in steps.step(number)]
    padded = sum(len(micro) * max(LENGTHS[i] for i in micro) for micro in batches)
    assert padded < 1.12 * sum(LENGTHS)


def test_bounds_end_a_run_within_an_epoch() -> None:
    assert plan(epochs=0.5).total_steps == 26  # of 51 steps
    assert plan(epochs=3, max_steps=7).total_steps == 7
    assert plan(epochs=3).epoch(51) == 1.0
