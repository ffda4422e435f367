"""Every recipe gets better at its own task, by its own figures: the shipped Qwen3 on the messages
that ship with it. What a result is worth is read with transformers and peft, on messages that it
was not shown: see `trainer.tests.held_out`.

    sft  reads a message into JSON: the loss of the right JSON, and the fields that it gets right
    dpo  learns to prefer that JSON to another message's
    kto  learns the same from answers that are each marked right or wrong

All is as the recipe says but the rate. Recipes are for bases of a hundred million parameters and
more; the smaller a base, the higher the rate that it wants, and this one has 3.7 million. TIMES
is what its own recipes, whose rates were tried out on it, have more than the others: a factor for
each method and tuning, the same for all recipes of one, so that one whose rate is ten times too low
or too high shows. Recipes that then have the same figures share a run.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from demo.data import write_dataset
from demo.job import MODEL_FOLDER
from trainer.spec import TrainSpec
from trainer.tests.held_out import Asked, Reading, read
from trainer.tests.make import events, make_spec, run_here, write_rows
from training.metrics.fields import JsonFields
from training.recipes import Recipe, find
from training.recipes.book import RECIPES, TINY
from training.recipes.recipe import BILLION

TIMES = {
    ("sft", "lora"): 40.0,
    ("sft", "full"): 100.0,
    ("dpo", "lora"): 100.0,
    ("dpo", "full"): 100.0,
    ("kto", "lora"): 20.0,
    ("kto", "full"): 20.0,
}
EXAMPLES = {8: 80, 16: 128, 32: 160}  # to learn from, by how many make up a step
HELD_OUT = 24
# What a result must be, read from its answers to the held-out messages. The base gets 0.08 of the
# fields right and tells no pair apart; what a run gives is some way beyond each bound.
LEAST_FIELDS = 0.45  # the share of the JSON's fields that are right
MOST_LOSS = 0.25  # of the base's
LEAST_TOLD_APART = 0.8  # of pairs: the right answer has gained on the wrong one
LEAST_GAIN = {"dpo": 2.0, "kto": 5.0}  # natural logarithm, mean of what the former has gained
MOST_LOST = 10.0  # that any right answer may lose; to the base their logarithms are about -87
# Four-bit weights need an accelerator; see the last test.
ON_CPU = [recipe for recipe in RECIPES if recipe.tuning != "qlora"]

Rows = list[dict[str, Any]]


@dataclass
class Task:
    folder: Path
    train: list[Asked]
    held_out: list[Asked]
    base: Reading
    results: dict[str, tuple[Reading, dict[str, Any]]]

    def result(self, recipe: Recipe) -> tuple[Reading, dict[str, Any]]:
        """What its model makes of the held-out messages, and what its trainer said of them."""
        values = recipe.values_for(parameters=TINY)
        if recipe.parameters_until != TINY:
            values["learning_rate"] = (
                float(values["learning_rate"]) * TIMES[recipe.method, recipe.tuning]
            )
        key = json.dumps([recipe.method, recipe.tuning, values], sort_keys=True)
        if key not in self.results:
            self.results[key] = self._run(recipe, values, f"run-{len(self.results)}")
        return self.results[key]

    def _run(
        self, recipe: Recipe, values: dict[str, Any], name: str
    ) -> tuple[Reading, dict[str, Any]]:
        folder = self.folder / name
        spec = make_spec(
            folder,
            base=MODEL_FOLDER,
            tuning=recipe.tuning,
            method=recipe.method,
            dtype="bfloat16",
            **values | {"checkpoint_every_seconds": 1e6},
        )
        train = self.train[: EXAMPLES[int(recipe.examples_a_step.value)]]
        spec = dataclasses.replace(
            spec,
            train_path=str(write_rows(folder / "train.jsonl", lines(recipe.method, train))),
            eval_path=str(write_rows(folder / "eval.jsonl", lines(recipe.method, self.held_out))),
        )
        assert run_here(spec) == 0, events(spec)[-1]
        return self._read(spec), events(spec, "eval")[-1]

    def _read(self, spec: TrainSpec) -> Reading:
        result, speaks = Path(spec.output_path), spec.method == "sft"
        if spec.tuning == "full":
            return read(result, self.held_out, speaks=speaks)
        return read(MODEL_FOLDER, self.held_out, adapter=result, speaks=speaks)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    most = max(EXAMPLES.values())
    paths = write_dataset("retail-support", folder, train=most, heldout=HELD_OUT, harder=1)
    train, held_out = (asked_in(paths[name]) for name in ("train", "heldout"))
    return Task(folder, train, held_out, read(MODEL_FOLDER, held_out), {})


def asked_in(path: Path) -> list[Asked]:
    """Messages with the JSON that they should become, and with some other message's."""
    rows = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    others = rows[7:] + rows[:7]
    return [
        Asked(row[:-1], row[-1]["content"], other[-1]["content"])
        for row, other in zip(rows, others, strict=True)
    ]


def lines(method: str, asked: Sequence[Asked]) -> Rows:
    def said(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    match method:
        case "dpo":
            return [
                {
                    "input": {"messages": each.messages},
                    "preferred_output": [said(each.right)],
                    "non_preferred_output": [said(each.wrong)],
                }
                for each in asked
            ]
        case "kto":
            return [
                {"messages": [*each.messages, said(answer)], "label": answer == each.right}
                for number, each in enumerate(asked)
                for answer in [each.wrong if number % 2 else each.right]
            ]
        case _:
            return [{"messages": [*each.messages, said(each.right)]} for each in asked]


@pytest.mark.parametrize("recipe", ON_CPU, ids=lambda recipe: recipe.key)
def test_a_recipe_improves_its_own_metric(recipe: Recipe, task: Task) -> None:
    after, told = task.result(recipe)
    assert shortcomings(recipe.method, task, after) == []
    match recipe.method:  # and the trainer says what is so
        case "sft":
            assert told["eval_loss"] == pytest.approx(after.loss, rel=0.03)
        case "dpo":
            margin = mean(gains(task, after)) * float(recipe.settings["beta"].value)
            assert told["metrics"]["reward_margin"] == pytest.approx(margin, rel=0.1)


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_the_base_alone_falls_short_of_all_that_is_asked_of_a_result(
    task: Task, method: str
) -> None:
    assert len(shortcomings(method, task, task.base)) == 2


def test_four_bit_recipes_have_the_figures_of_those_that_are_proven() -> None:
    for recipe in RECIPES:
        if recipe.tuning == "qlora":
            proven = find(f"{recipe.name.replace('qlora', 'lora')}@{recipe.version}")
            assert proven.tuning == "lora"
            for parameters in (TINY, 7 * BILLION, 70 * BILLION):
                assert recipe.values_for(parameters=parameters) == proven.values_for(
                    parameters=parameters
                )


def shortcomings(method: str, task: Task, after: Reading) -> list[str]:
    """What a result should be better at than it is."""
    found = []
    if method == "sft":
        right_fields = mean(
            JsonFields().score(each.right, answer)["json_fields"]
            for each, answer in zip(task.held_out, after.said, strict=True)
        )
        if not right_fields >= LEAST_FIELDS:
            found.append(f"fields {right_fields:.2f}")
        if not after.loss < MOST_LOSS * task.base.loss:
            found.append(f"loss {after.loss:.3f} of {task.base.loss:.3f}")
        return found
    told_apart = mean(float(gain > 0) for gain in gains(task, after))
    if not told_apart >= LEAST_TOLD_APART:
        found.append(f"told apart {told_apart:.2f}")
    if not mean(gains(task, after)) > LEAST_GAIN[method]:
        found.append(f"gained {mean(gains(task, after)):.2f}")
    if min(moved(after.right, task.base.right)) < -MOST_LOST:
        found.append("right answers have become unlikely too")
    return found


def gains(task: Task, after: Reading) -> list[float]:
    """By how much more the right answer's logarithm rose than the wrong one's."""
    right, wrong = moved(after.right, task.base.right), moved(after.wrong, task.base.wrong)
    return [one - other for one, other in zip(right, wrong, strict=True)]


def moved(after: Sequence[float], before: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(after, before, strict=True)]
