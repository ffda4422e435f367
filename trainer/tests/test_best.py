"""The best evaluation: judged, kept through kills and pruning, and what the result is."""

import dataclasses
import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainer import best, checkpoint
from trainer.__main__ import attempt
from trainer.checkpoint import Position
from trainer.errors import SpecError
from trainer.spec import Hyperparameters, TrainSpec
from trainer.tests.make import events, losses, make_spec, run_here, write_spec

# 48 steps on eight lines, which soon are known by heart.
DIVERGING: dict[str, Any] = {
    "rows": 8,
    "epochs": 24.0,
    "learning_rate": 1e-2,
    "scheduler": "constant",
    "eval_every_steps": 4,
    "checkpoint_every_seconds": 0.001,
    "keep_best": True,
}


def judged(values: list[float | None], **given: Any) -> tuple[list[bool], Position]:
    position, hyperparameters = Position(fingerprint="f"), Hyperparameters(**given)
    found = []
    for step, value in enumerate(values, start=1):
        position.step = step
        metrics = {} if value is None else {"reward_accuracy": value}
        loss = math.nan if value is None else value
        found.append(best.take_up(position, hyperparameters, eval_loss=loss, metrics=metrics))
    return found, position


def test_every_gain_makes_a_best_and_only_a_marked_one_renews_patience() -> None:
    given = {"early_stopping_patience": 2, "early_stopping_min_delta": 0.1}
    found, position = judged([1.0, 0.95, 0.89, 0.85], **given)
    assert found == [True] * 4
    assert (position.evaluations_in_vain, position.stopped_early) == (1, False)  # 0.89 counted
    found, position = judged([1.0, 0.95, 0.92], **given)
    assert position.stopped_early
    assert (position.best_step, position.best_value) == (3, 0.92)


def test_rewards_are_best_when_high_and_what_is_no_number_is_no_gain() -> None:
    found, position = judged([0.5, 0.7, 0.6, None], best_metric="reward_accuracy")
    assert found == [True, True, False, False]
    assert (position.best_step, position.best_value) == (2, 0.7)
    assert position.evaluations_in_vain == 2
    assert judged([None, None])[1].best_step is None


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "tensors.safetensors")
    marked = {name.partition(":") for name in tensors if name.startswith("weight:")}
    return {name: tensors[f"weight:{name}"] for _, _, name in marked}


def test_the_result_is_the_best_evaluation_and_pruning_spares_it(
    base: Path, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, base=base, **DIVERGING)
    assert run_here(spec) == 0
    looks = {line["step"]: line["eval_loss"] for line in events(spec, "eval")}
    chosen = min(looks, key=lambda step: looks[step])
    assert chosen < 40  # so that many a checkpoint was made after it
    finished = events(spec)[-1]
    assert (finished["result_step"], finished["best_step"]) == (chosen, chosen)
    assert (finished["step"], finished["eval_loss"]) == (48, looks[chosen])
    assert not finished["stopped_early"]
    root = Path(spec.checkpoint_path)
    assert len(list(root.glob("step-*"))) == spec.hyperparameters.checkpoints_kept + 1
    assert events(spec, "checkpoint")[-1]["kept"][-1] == chosen
    kept = weights_of(checkpoint.folder_of(root, chosen))
    result = load_file(Path(spec.output_path) / "model.safetensors")
    assert all(torch.equal(result[name], kept[name]) for name in result)


class StopWhen(threading.Event):
    """Set once the run has told of an evaluation at this step or a later one."""

    def __init__(self, spec: TrainSpec, step: int) -> None:
        super().__init__()
        self._spec, self._step = spec, step

    def is_set(self) -> bool:
        return any(line["step"] >= self._step for line in events(self._spec, "eval"))


def test_early_stopping_is_the_same_through_stops_and_resumes(base: Path, tmp_path: Path) -> None:
    given = DIVERGING | {"early_stopping_patience": 2}
    whole = make_spec(tmp_path / "whole", base=base, **given)
    assert run_here(whole) == 0
    finished = events(whole)[-1]
    assert finished["stopped_early"]
    assert finished["step"] < 48
    (told,) = events(whole, "early_stop")
    assert told["step"] == finished["step"]
    assert "of 48: in 2 evaluations eval_loss has not improved" in told["message"]
    assert finished["result_step"] == finished["best_step"] < finished["step"]
    broken = make_spec(tmp_path / "broken", base=base, **given)
    after_best = StopWhen(broken, finished["best_step"] + 4)
    assert attempt(write_spec(broken), stop=after_best, started=time.monotonic()) == 0
    assert events(broken)[-1]["kind"] == "yielded"
    later = dataclasses.replace(broken, attempt=2)
    assert run_here(later) == 0
    again = events(later)[-1]
    same = ("step", "result_step", "best_step", "best_value", "eval_loss", "stopped_early")
    assert {name: again[name] for name in same} == {name: finished[name] for name in same}
    assert losses(later) == pytest.approx(losses(whole), abs=1e-6)


class StopAfter(threading.Event):
    def __init__(self, looks: int) -> None:
        super().__init__()
        self._left = looks

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_a_stop_in_the_middle_of_an_evaluation_leaves_it_to_the_next_attempt(
    base: Path, tmp_path: Path
) -> None:
    spec = make_spec(
        tmp_path, base=base, epochs=1.0, eval_every_steps=4, checkpoint_every_seconds=1e6
    )
    stop = StopAfter(5)  # one a step of the first four, then one in the evaluation
    assert attempt(write_spec(spec), stop=stop, started=time.monotonic()) == 0
    assert events(spec)[-1]["step"] == 4
    assert not events(spec, "eval")
    assert run_here(dataclasses.replace(spec, attempt=2)) == 0
    assert [line["step"] for line in events(spec, "eval")] == [4, 8, 12, 16]


def test_a_best_checkpoint_that_is_gone_leaves_the_last_step_and_says_so(
    base: Path, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, base=base, **DIVERGING)
    assert run_here(spec) == 0
    chosen = events(spec)[-1]["best_step"]
    shutil.rmtree(spec.output_path)
    damaged = checkpoint.folder_of(Path(spec.checkpoint_path), chosen) / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    assert run_here(dataclasses.replace(spec, attempt=2)) == 0
    (told,) = [line for line in events(spec, "warning") if line["reason"] == "best_is_gone"]
    assert f"step {chosen}" in told["message"]
    finished = events(spec)[-1]
    assert finished["result_step"] == finished["step"] == 48
    assert finished["eval_loss"] == events(spec, "eval")[-1]["eval_loss"]


def test_without_anything_held_out_there_is_no_best(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refused:
        make_spec(tmp_path, base=base, eval_path=None, early_stopping_patience=2)
    assert refused.value.field == "hyperparameters.early_stopping_patience"
    with pytest.raises(SpecError) as refused:
        make_spec(tmp_path, base=base, best_metric="reward_margin")
    assert refused.value.field == "hyperparameters.best_metric"


def test_ten_evaluations_where_they_decide_and_nobody_says_how_often(
    base: Path, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, base=base, epochs=1.25, keep_best=True)  # 20 steps
    assert run_here(spec) == 0
    assert [line["step"] for line in events(spec, "eval")] == list(range(2, 21, 2))
