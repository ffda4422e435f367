"""Every recipe improves its own metric on held-out lines of a small task, by its own figures.

sft: the loss falls. dpo and kto begin at the loss of a model that is its own reference, log 2 and
a half: below it the model prefers what it was shown to prefer, on lines that it was not shown.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from trainer.spec import TrainSpec
from trainer.tests.make import (
    events,
    make_base,
    make_rows,
    make_spec,
    run_here,
    write_rows,
)
from training.recipes import Recipe
from training.recipes.book import RECIPES, TINY

STEPS = 6
# What the loss must fall by. Rates for real bases move one of 30,000 random weights by little in
# six steps, and yet by far more than rounding: a rate of next to nothing moves it by less than 1e-7.
LEAST = {"sft": 1e-3, "dpo": 1e-6, "kto": 1e-6}
LEAST_TINY = {"sft": 0.1, "dpo": 1e-3, "kto": 1e-4}
NEXT_TO_NOTHING = 1e-12
# Four-bit weights need kernels that not every machine has; their figures are those of "lora".
ON_CPU = [recipe for recipe in RECIPES if recipe.tuning != "qlora"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def beginnings(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """By method: the held-out loss that training with next to no rate ends with."""
    folder = tmp_path_factory.mktemp("beginnings")
    return {
        method: train(folder / method, base, recipe_of(method), learning_rate=NEXT_TO_NOTHING)
        for method in ("sft", "dpo", "kto")
    }


def recipe_of(method: str) -> Recipe:
    return next(recipe for recipe in ON_CPU if recipe.method == method)


@pytest.mark.parametrize("recipe", ON_CPU, ids=lambda recipe: recipe.key)
def test_a_recipe_improves_its_own_metric(
    recipe: Recipe, base: Path, beginnings: dict[str, float], tmp_path: Path
) -> None:
    least = LEAST_TINY if recipe.parameters_until == TINY else LEAST
    after = train(tmp_path, base, recipe)
    assert beginnings[recipe.method] - after > least[recipe.method]


def test_preferences_begin_where_a_model_is_its_own_reference(
    beginnings: dict[str, float],
) -> None:
    assert beginnings["dpo"] == pytest.approx(math.log(2), abs=1e-7)
    assert beginnings["kto"] == pytest.approx(0.5, abs=1e-7)


def train(folder: Path, base: Path, recipe: Recipe, **changes: Any) -> float:
    """The held-out loss after a few steps with the recipe's values."""
    values = recipe.values_for(parameters=None) | {
        "epochs": 3.0,
        "max_steps": STEPS,
        "checkpoint_every_seconds": 1e6,
    }
    spec = make_spec(
        folder, base=base, tuning=recipe.tuning, method=recipe.method, **values | changes
    )
    rows = rows_for(recipe.method, 112)
    spec = dataclasses.replace(
        spec,
        train_path=str(write_rows(folder / "train.jsonl", rows[:96])),
        eval_path=str(write_rows(folder / "eval.jsonl", rows[96:])),
    )
    assert run_here(spec) == 0, last_words(spec)
    return float(events(spec, "eval")[-1]["eval_loss"])


def rows_for(method: str, count: int) -> list[dict[str, Any]]:
    """JSON answers, preferred to a polite excuse where there is something to prefer."""
    excuse = {"role": "assistant", "content": "Sorry, I cannot say where your parcel is today."}
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(make_rows(count)):
        *asked, answer = row["messages"]
        match method:
            case "dpo":
                good = {"preferred_output": [answer], "non_preferred_output": [excuse]}
                rows.append({"input": {"messages": asked}} | good)
            case "kto":
                is_good = number % 2 == 0
                said = answer if is_good else excuse
                rows.append({"messages": [*asked, said], "label": is_good})
            case _:
                rows.append(row)
    return rows


def last_words(spec: TrainSpec) -> str:
    return str(events(spec)[-1])
