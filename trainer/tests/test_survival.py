"""What goes wrong inside a trainer, and that the run's losses do not show it."""

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from trainer import checkpoint, loop, model, parity
from trainer.__main__ import attempt
from trainer.batches import Batch
from trainer.data import Example
from trainer.progress import FailureWriter
from trainer.ranks import ALONE, Ranks
from trainer.spec import TrainSpec
from trainer.steps import cut
from trainer.tests.make import (
    events,
    label_rows,
    losses,
    make_rows,
    make_spec,
    make_tokenizer,
    run_here,
    write_rows,
    write_spec,
)

SHORT: dict[str, Any] = {"epochs": 1.0}  # 16 steps of 4 examples
OUT_OF_MEMORY = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
Loss = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    spec = make_spec(tmp_path_factory.mktemp("undisturbed"), base=base, **SHORT)
    assert run_here(spec) == 0
    return spec


def again(spec: TrainSpec) -> TrainSpec:
    return dataclasses.replace(spec, attempt=spec.attempt + 1)


def patch_loss(monkeypatch: pytest.MonkeyPatch, disturbed: Callable[[Batch, Loss], Any]) -> None:
    """`disturbed` is given the batch and the honest loss of it."""
    honest = model.Loaded.scored

    def scored(self: model.Loaded, batch: Batch, *, divisor: float) -> Any:
        loss, hits = honest(self, batch, divisor=divisor)
        return disturbed(batch, lambda: loss), hits

    monkeypatch.setattr(model.Loaded, "scored", scored)


def warnings(spec: TrainSpec, reason: str) -> list[dict[str, Any]]:
    return [line for line in events(spec, "warning") if line["reason"] == reason]


# Memory


def fits(most: int) -> Callable[[Batch, Loss], Any]:
    """Batches of more rows than that do not."""

    def disturbed(batch: Batch, honest: Loss) -> Any:
        if len(batch.lengths) > most and torch.is_grad_enabled():
            raise RuntimeError(OUT_OF_MEMORY)
        return honest()

    return disturbed


def test_out_of_memory_cuts_micro_batches_and_leaves_the_losses(
    base: Path, tmp_path: Path, undisturbed: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base=base, **SHORT)
    patch_loss(monkeypatch, fits(1))
    assert run_here(spec) == 0
    assert losses(spec) == pytest.approx(losses(undisturbed), abs=1e-6)
    told = warnings(spec, "out_of_memory")
    assert [line["micro_batch_splits"] for line in told] == [2, 4]
    assert "cut into 4" in told[1]["message"]


def test_a_later_attempt_knows_how_little_memory_there_is(
    base: Path, tmp_path: Path, undisturbed: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, stop, seen = make_spec(tmp_path, base=base, **SHORT), threading.Event(), []

    def stop_after_a_while(batch: Batch, honest: Loss) -> Any:
        seen.append(len(batch.lengths))
        if len(seen) == 12:
            stop.set()
        return fits(2)(batch, honest)

    patch_loss(monkeypatch, stop_after_a_while)
    assert attempt(write_spec(spec), stop=stop, started=time.monotonic()) == 0
    assert events(spec)[-1]["kind"] == "yielded"
    stop.clear()
    assert run_here(again(spec)) == 0
    assert losses(spec) == pytest.approx(losses(undisturbed), abs=1e-6)
    assert len(warnings(spec, "out_of_memory")) == 1


def test_the_platform_may_know_it_before_the_trainer(
    base: Path, tmp_path: Path, undisturbed: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base=base, micro_batch_splits=4, **SHORT)
    patch_loss(monkeypatch, fits(1))
    assert run_here(spec) == 0
    assert losses(spec) == pytest.approx(losses(undisturbed), abs=1e-6)
    assert not warnings(spec, "out_of_memory")


def test_kto_cut_for_memory_has_the_losses_and_the_kl_of_whole_micro_batches(
    base: Path, tmp_path: Path
) -> None:
    def spec_of(name: str, splits: int) -> TrainSpec:
        spec = make_spec(
            tmp_path / name, base=base, rows=16, method="kto", micro_batch_splits=splits, **SHORT
        )
        write_rows(Path(spec.train_path), label_rows(16))
        write_rows(Path(str(spec.eval_path)), label_rows(6))
        assert run_here(spec) == 0
        return spec

    whole, cut_up = spec_of("whole", 1), spec_of("cut", 4)
    assert losses(cut_up) == pytest.approx(losses(whole), abs=1e-6)
    for kind in ("step", "eval"):
        for one, other in zip(events(cut_up, kind), events(whole, kind), strict=True):
            assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-5)
    assert max(line["metrics"]["kl"] for line in events(whole, "step")) > 0.01


def test_ranks_that_cut_differently_make_one_step(base: Path, tmp_path: Path) -> None:
    """Together they have every example once, whichever of them ran out of memory."""
    spec = make_spec(tmp_path, base=base, gradient_accumulation=3)
    started = time.monotonic()

    def training(group: Ranks, splits: int) -> loop.Training:
        own = dataclasses.replace(spec, micro_batch_splits=splits)
        return loop.Training(
            own,
            progress=FailureWriter(Path(spec.progress_path), attempt=1),
            stopping=lambda: False,
            started=started,
            group=group,
        )

    class Apart(Ranks):
        def from_first(self, value: Any) -> Any:
            return value

        def any(self, flag: bool) -> bool:
            return flag

    # as one process would plan: two ranks at three micro-batches each make a step of six
    planned = dataclasses.replace(spec.hyperparameters, gradient_accumulation=6)
    steps = [training(Apart(rank, 2), splits)._steps for rank, splits in ((0, 4), (1, 1))]
    parts = [each._accumulate(0) for each in steps]
    spec = dataclasses.replace(spec, hyperparameters=planned)
    alone = training(ALONE, 1)._steps._accumulate(0)
    assert alone is not None
    assert all(part is not None for part in parts)
    assert sum(part.loss for part in parts if part) == pytest.approx(alone.loss, abs=1e-6)
    hits = [part.sums["token_accuracy"] for part in parts if part]
    assert sum(float(each[1]) for each in hits) == alone.sums["token_accuracy"][1]


def test_an_example_that_does_not_fit_alone_fails_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base=base, **SHORT)
    patch_loss(monkeypatch, fits(0))
    assert run_here(spec) == 1
    failed = events(spec)[-1]
    assert (failed["reason"], failed["kind"]) == ("out_of_memory", "failed")
    assert "one example at a time" in failed["message"]


def test_parts_are_even_and_hold_everything_once() -> None:
    assert cut([5, 6, 7, 8], 2) == [[5, 6], [7, 8]]
    assert cut([5, 6, 7], 2) == [[5, 6], [7]]
    assert cut([5, 6, 7], 8) == [[5], [6], [7]]


# No number


def poisoned(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any):
    """A run whose line 10 makes every loss it is in infinite."""
    spec = make_spec(tmp_path, base=base, **changes)
    rows = make_rows(64)
    rows[9]["messages"][1]["content"] += " ☠"
    write_rows(Path(spec.train_path), rows)
    skull = make_tokenizer().encode("☠")[0]

    def disturbed(batch: Batch, honest: Loss) -> Any:
        return honest() * (float("inf") if bool((batch.ids == skull).any()) else 1.0)

    patch_loss(monkeypatch, disturbed)
    return spec


def test_a_batch_without_a_loss_is_left_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = poisoned(tmp_path, base, monkeypatch, epochs=2.0)
    assert run_here(spec) == 0
    told = warnings(spec, "batch_skipped")
    assert len(told) == 2  # once an epoch
    for line in told:
        assert 10 in line["lines"]
        assert len(line["lines"]) == 4
        assert "10" in line["message"]
    steps = set(range(1, 33)) - {line["step"] + 1 for line in told}
    assert set(losses(spec)) == steps
    saved = checkpoint.load_newest(Path(spec.checkpoint_path))
    assert saved is not None
    assert checkpoint.read_position(saved).skipped == [line["step"] for line in told]


def test_it_goes_on_from_the_last_checkpoint_as_from_the_start(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rolled back to a checkpoint, or to the base for want of one: the same weights, hence losses,
    dropout included."""
    often = poisoned(tmp_path / "often", base, monkeypatch, checkpoint_every_seconds=0.001, **LORA)
    never = poisoned(tmp_path / "never", base, monkeypatch, checkpoint_every_seconds=1e6, **LORA)
    assert run_here(often) == 0
    assert run_here(never) == 0
    assert len(warnings(often, "batch_skipped")) == 1
    assert losses(often) == pytest.approx(losses(never), abs=1e-6)


LORA: dict[str, Any] = {"tuning": "lora", "lora_dropout": 0.1, **SHORT}


def test_too_many_of_them_fail_the_run_with_their_lines(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = poisoned(tmp_path, base, monkeypatch, epochs=float(loop.MAX_SKIPPED + 1))
    assert run_here(spec) == 1
    failed = events(spec)[-1]
    assert failed["reason"] == "nan_loss"
    assert " 10" in failed["message"]
    assert "train.jsonl" in failed["message"]
    assert len(warnings(spec, "batch_skipped")) == loop.MAX_SKIPPED


# Disk


def full_disk(*_: object) -> None:
    Path("/dev/full").write_bytes(b"x" * 4096)


def test_a_checkpoint_without_room_is_put_off_and_the_run_goes_on(
    base: Path, tmp_path: Path, undisturbed: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base=base, checkpoint_every_seconds=0.001, **SHORT)
    calls: list[Path] = []

    def save_file(tensors: Any, path: Path) -> None:
        safetensors.torch.save_file(tensors, path)
        calls.append(path)
        if len(calls) in (5, 7, 9):  # two files a checkpoint
            full_disk()

    monkeypatch.setattr("trainer.checkpoint.save_file", save_file)
    assert run_here(spec) == 0
    assert losses(spec) == pytest.approx(losses(undisturbed), abs=1e-6)
    told = warnings(spec, "disk_full")
    assert len(told) >= 2
    assert "that of step 2 stays" in told[0]["message"]
    assert not list(Path(spec.checkpoint_path).glob("*.partial"))


def test_a_result_without_room_fails_clearly_and_is_written_later(
    base: Path, tmp_path: Path, undisturbed: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base=base, **SHORT)
    slept: list[float] = []
    monkeypatch.setattr("trainer.keeping.time.sleep", slept.append)
    with monkeypatch.context() as full:
        full.setattr(model, "save_result", full_disk)
        assert run_here(spec) == 1
    assert slept == [1, 2, 4, 8]
    failed = events(spec)[-1]
    assert (failed["kind"], failed["reason"]) == ("failed", "disk_full")
    assert spec.output_path in failed["message"]
    assert not Path(spec.output_path).exists()
    assert [path.name for path in Path(spec.checkpoint_path).glob("step-*")] == ["step-00000016"]
    assert run_here(again(spec)) == 0
    assert events(spec)[-1]["eval_loss"] == events(undisturbed)[-1]["eval_loss"]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    base: Path, tmp_path: Path, undisturbed: TrainSpec
) -> None:
    spec, stop = make_spec(tmp_path, base=base, checkpoint_every_seconds=0.001, **SHORT), Stop(7)
    assert attempt(write_spec(spec), stop=stop, started=time.monotonic()) == 0
    newest = max(Path(spec.checkpoint_path).glob("step-*"))
    tensors = newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\xff")
    assert run_here(again(spec)) == 0
    resumed = events(spec, "started")[-1]["resumed_from_step"]
    assert 0 < resumed < int(newest.name.removeprefix("step-"))
    assert losses(spec) == pytest.approx(losses(undisturbed), abs=1e-6)


# Asked to stop


class Stop(threading.Event):
    """Set once it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._left = looks

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_asked_in_the_middle_of_a_step_it_is_given_up(base: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "gradient_accumulation": 4,
        "lora_dropout": 0.1,
        "tuning": "lora",
        "epochs": 1.0,
    }
    whole = make_spec(tmp_path / "whole", base=base, **given)
    assert run_here(whole) == 0
    spec = make_spec(tmp_path / "stopped", base=base, checkpoint_every_seconds=1e6, **given)
    assert attempt(write_spec(spec), stop=Stop(6), started=time.monotonic()) == 0
    yielded = events(spec)[-1]
    assert (yielded["kind"], yielded["step"]) == ("yielded", 1)  # of 4 looks each: in the second
    assert run_here(again(spec)) == 0
    assert losses(spec) == pytest.approx(losses(whole), abs=1e-6)


def test_lines_tell_how_long_a_silence_is_allowed(undisturbed: TrainSpec) -> None:
    steps = events(undisturbed, "step")
    assert all(0 < line["patience_seconds"] < 60 for line in steps)
    assert json.loads(json.dumps(steps[-1]))["patience_seconds"] >= steps[0]["patience_seconds"]


def test_a_checkpoint_holds_all_that_a_run_needs(undisturbed: TrainSpec, tmp_path: Path) -> None:
    newest = max(Path(undisturbed.checkpoint_path).glob("step-*"))
    kept = Path(shutil.copytree(newest, tmp_path / newest.name))
    assert checkpoint.load_newest(tmp_path) == kept
    state = json.loads((kept / "state.json").read_text())
    assert set(state["random"]) == {"python", "numpy"}
    assert (kept / "random.safetensors").is_file()
    with checkpoint._TensorFile(kept / "tensors.safetensors") as file:
        names = {name.partition(":")[0] for name in file.names}
    assert names == {"weight", "step", "exp_avg", "exp_avg_sq"}


# What its result says of itself


def test_a_result_says_what_its_model_made_of_some_prompts(
    undisturbed: TrainSpec, base: Path
) -> None:
    told = json.loads((Path(undisturbed.output_path) / "parity.json").read_text())
    assert len(told["prompts"]) == 32  # all that is held out, and some of the rest
    served = AutoModelForCausalLM.from_pretrained(undisturbed.output_path)
    untrained = AutoModelForCausalLM.from_pretrained(base)
    for prompt in told["prompts"]:
        tokens, count = prompt["tokens"], len(prompt["logprobs"])
        assert count == min(16, len(tokens) - 1)
        found = []
        for which in (served, untrained):
            logits = which(torch.tensor([tokens])).logits[0, -count - 1 : -1]
            picked = logits.log_softmax(-1).gather(1, torch.tensor(tokens[-count:])[:, None])
            found.append(picked[:, 0].tolist())
        assert prompt["logprobs"] == pytest.approx(found[0], abs=1e-4)
        assert prompt["logprobs"] != pytest.approx(found[1], abs=1e-1)


def test_prompts_are_spread_evenly_and_cut() -> None:
    rows = [Example(np.arange(1, 400, dtype=np.int32), np.arange(399) == 300) for _ in range(100)]
    rows[0] = Example(np.arange(5, dtype=np.int32), np.arange(5) == 3)
    chosen = parity.choose([rows[:1], rows[1:]])
    assert len(chosen) == parity.PROMPTS
    assert chosen[0].tokens.tolist() == [0, 1, 2, 3]
    assert chosen[0].marks.tolist() == [False, True, True, True]
    assert all(len(each.tokens) == parity.LONGEST_TOKENS for each in chosen[1:])
    assert all(each.marks.sum() == parity.SCORED_TOKENS for each in chosen[1:])
