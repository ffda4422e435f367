"""Two processes on one run, by torchrun and gloo: the losses of one process, and one fate."""

import dataclasses
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer import checkpoint, launch
from trainer.errors import SpecError
from trainer.spec import TrainSpec
from trainer.tests.make import (
    events,
    label_rows,
    losses,
    make_rows,
    make_spec,
    make_tokenizer,
    preference_rows,
    run_here,
    start,
    write_rows,
)

pytestmark = pytest.mark.processes


def pair_spec(root: Path, base: Path, method: str, **given: object) -> TrainSpec:
    """Two ranks at half the micro-batches each, or one process at all of them."""
    rows = {"dpo": preference_rows, "kto": label_rows}.get(method)
    spec = make_spec(root, base=base, rows=36, method=method, epochs=1.0, batch_size=3, **given)
    if rows is not None:
        write_rows(Path(spec.train_path), rows(36))
        write_rows(Path(str(spec.eval_path)), rows(8))
    return spec


def test_two_ranks_have_the_losses_of_one_process(base: Path, tmp_path: Path) -> None:
    method = "kto"  # the one that exchanges most; sft is compared below
    alone = pair_spec(tmp_path / "alone", base, method, gradient_accumulation=2)
    assert run_here(alone) == 0, events(alone)
    two = pair_spec(tmp_path / "two", base, method, ranks=2)
    assert start(two).wait(timeout=120) == 0, log(two)
    assert sorted(losses(two)) == list(range(1, 7))
    assert losses(two) == pytest.approx(losses(alone), abs=1e-5)
    ended, expected = events(two)[-1], events(alone)[-1]
    assert ended["kind"] == "finished"
    assert ended["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-5)
    assert ended["tokens_total"] == expected["tokens_total"]
    for one, other in zip(events(two, "step"), events(alone, "step"), strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-4)
    assert len(events(two, "started")) == 1  # the first rank alone tells


def test_asked_to_stop_both_stop_at_one_step_and_go_on(base: Path, tmp_path: Path) -> None:
    alone = pair_spec(tmp_path / "alone", base, "sft", gradient_accumulation=2)
    alone = with_epochs(alone, 8.0)
    assert run_here(alone) == 0
    two = with_epochs(pair_spec(tmp_path / "two", base, "sft", ranks=2), 8.0)
    process = start(two)
    wait_for(process, two, step=8)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)
    yielded = events(two)[-1]
    assert yielded["kind"] == "yielded", log(two)
    assert 8 <= yielded["step"] < 48
    again = dataclasses.replace(two, attempt=2)
    assert start(again).wait(timeout=120) == 0, log(again)
    assert events(again, "started")[-1]["resumed_from_step"] == yielded["step"]
    assert losses(again) == pytest.approx(losses(alone), abs=1e-5)


def test_a_signal_to_one_rank_in_the_middle_of_a_step_stops_both(
    base: Path, tmp_path: Path
) -> None:
    """Steps are of eight micro-batches each, so nearly every instant is in the middle of one."""
    two = pair_spec(tmp_path, base, "sft", ranks=2, gradient_accumulation=4, lora_dropout=0.1)
    two = with_epochs(dataclasses.replace(two, tuning="lora"), 400.0)
    process = start(two)
    wait_for(process, two, step=3)
    rank_of(process, 1).send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, log(two)
    yielded = events(two)[-1]
    assert (yielded["kind"], yielded["step"] >= 3) == ("yielded", True)
    saved = checkpoint.load_newest(Path(two.checkpoint_path))
    assert saved == checkpoint.folder_of(Path(two.checkpoint_path), yielded["step"])


def test_what_is_no_number_on_one_rank_is_left_out_by_both(base: Path, tmp_path: Path) -> None:
    """The skull's embedding is no number, and no other row of the data has it."""
    odd = odd_base(base, tmp_path / "odd")
    two = with_epochs(pair_spec(tmp_path, odd, "sft", ranks=2), 2.0)
    rows = make_rows(36)
    rows[9]["messages"][1]["content"] += " ☠"
    write_rows(Path(two.train_path), rows)
    assert start(two).wait(timeout=120) == 0, log(two)
    told = [line for line in events(two, "warning") if line["reason"] == "batch_skipped"]
    assert len(told) == 2  # once an epoch
    assert all(10 in line["lines"] for line in told)
    assert events(two)[-1]["kind"] == "finished"
    assert set(losses(two)) == set(range(1, 13)) - {line["step"] + 1 for line in told}


def odd_base(base: Path, folder: Path) -> Path:
    """The base with a head of its own, so that a bad embedding harms only who reads it."""
    model = AutoModelForCausalLM.from_pretrained(base, tie_word_embeddings=False)
    embeddings = model.get_input_embeddings().weight
    tokenizer = make_tokenizer()
    with torch.no_grad():
        model.get_output_embeddings().weight = torch.nn.Parameter(embeddings.clone())
        embeddings[tokenizer.encode("☠")[0]] = float("nan")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rank_of(process: subprocess.Popen[bytes], rank: int) -> psutil.Process:
    return next(
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("RANK") == str(rank)
    )


def test_a_rank_that_dies_ends_the_run_and_it_resumes(base: Path, tmp_path: Path) -> None:
    two = with_epochs(pair_spec(tmp_path, base, "sft", ranks=2), 10_000.0)
    process = start(two)
    wait_for(process, two, step=8)
    rank_of(process, 1).kill()
    assert process.wait(timeout=90) != 0
    (failed,) = events(two, "failed")
    assert failed["reason"] == "crashed"
    assert "another process of this run is gone" in failed["message"]
    assert failed["remedy"]


def test_what_one_rank_finds_wrong_is_told_once(base: Path, tmp_path: Path) -> None:
    two = pair_spec(tmp_path, base, "sft", ranks=2)
    with Path(two.train_path).open("a") as file:
        file.write('{"messages": []}\n')
    assert start(two).wait(timeout=90) != 0
    (failed,) = events(two, "failed")
    assert failed["reason"] == "bad_data"


def test_ranks_without_torchrun_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base=base, ranks=2, threads=4, cores=(0, 1, 2, 3))
    with pytest.raises(SpecError, match="2 are wanted, 1 were started") as refusal:
        launch.own_part(spec)
    assert refusal.value.field == "ranks"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    own = launch.own_part(spec)
    assert (own.cores, own.threads, own.device) == ((1, 3), 2, "cpu")
    assert launch.own_part(dataclasses.replace(spec, device="cuda:0")).device == "cuda:1"


def with_epochs(spec: TrainSpec, epochs: float) -> TrainSpec:
    given = dataclasses.replace(spec.hyperparameters, epochs=epochs)
    return dataclasses.replace(spec, hyperparameters=given)


def wait_for(process: subprocess.Popen[bytes], spec: TrainSpec, *, step: int) -> None:
    end = time.monotonic() + 60
    while max(losses(spec), default=0) < step:
        assert process.poll() is None, log(spec)
        assert time.monotonic() < end, "nothing was seen in time"
        time.sleep(0.01)


def log(spec: TrainSpec) -> str:
    path = Path(spec.progress_path).with_name(f"spec-{spec.attempt}.log")
    return path.read_text()[-3000:]
