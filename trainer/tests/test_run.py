"""Whole runs in processes of their own: finished, killed, stopped, refused."""

import dataclasses
import json
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer import folders
from trainer.__main__ import attempt
from trainer.spec import TrainSpec
from trainer.tests.make import events, finish, losses, make_spec, run_here, signal_when, start

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    spec = make_spec(tmp_path_factory.mktemp("undisturbed"), base=base)
    assert finish(spec) == 0
    return spec


def again(spec: TrainSpec) -> TrainSpec:
    return dataclasses.replace(spec, attempt=spec.attempt + 1)


def reached(*, spec: TrainSpec, step: int) -> bool:
    return max(losses(spec), default=0) >= step


def assert_same_course(spec: TrainSpec, reference: TrainSpec) -> None:
    expected = losses(reference)
    assert losses(spec) == pytest.approx(expected, abs=1e-6)
    assert sorted(expected) == list(range(1, 49))
    ended, reference_ended = events(spec)[-1], events(reference)[-1]
    assert ended["kind"] == "finished"
    for name in ("step", "tokens_total"):
        assert ended[name] == reference_ended[name]
    for name in ("train_loss", "eval_loss"):
        assert ended[name] == pytest.approx(reference_ended[name], abs=1e-6)
    one, other = (
        AutoModelForCausalLM.from_pretrained(each.output_path) for each in (spec, reference)
    )
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(weight, other.state_dict()[name], atol=1e-6, rtol=0)


def test_a_run_learns_and_tells_of_it(undisturbed: TrainSpec, base: Path) -> None:
    told = events(undisturbed)
    assert [told[0]["kind"], told[-1]["kind"]] == ["started", "finished"]
    assert told[0]["total_steps"] == 48
    assert told[0]["resumed_from_step"] == 0
    steps = events(undisturbed, "step")
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert steps[-1]["tokens_total"] == 3 * told[0]["train_tokens"]
    assert steps[-1]["epoch"] == 3.0
    assert steps[-1]["seconds_left"] == 0.0
    assert all(step["memory_bytes"] > 50e6 and step["tokens_per_second"] > 0 for step in steps)
    assert len(list(Path(undisturbed.checkpoint_path).glob("step-*"))) == 2


def test_the_result_loads_with_transformers_and_has_the_loss_it_was_told_to_have(
    undisturbed: TrainSpec,
) -> None:
    output = Path(undisturbed.output_path)
    model = AutoModelForCausalLM.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert (output / "generation_config.json").is_file()
    total, labels = 0.0, 0
    for line in Path(str(undisturbed.eval_path)).read_text().splitlines():
        messages = json.loads(line)["messages"]
        before = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages)
        prompt, ids = before["input_ids"], whole["input_ids"][:-1]  # less the last line break
        wanted = torch.tensor([[-100] * len(prompt) + ids[len(prompt) :]])
        count = len(ids) - len(prompt)
        total += model(input_ids=torch.tensor([ids]), labels=wanted).loss.item() * count
        labels += count
    assert events(undisturbed)[-1]["eval_loss"] == pytest.approx(total / labels, abs=1e-4)


def test_a_finished_run_started_again_repeats_nothing(undisturbed: TrainSpec) -> None:
    before = events(undisturbed)
    stamp = (Path(undisturbed.output_path) / "model.safetensors").stat().st_mtime_ns
    assert run_here(again(undisturbed)) == 0
    after = events(undisturbed)
    assert [event["kind"] for event in after[len(before) :]] == ["finished"]
    skipped = {"at", "attempt"}
    assert {k: v for k, v in after[-1].items() if k not in skipped} == {
        k: v for k, v in before[-1].items() if k not in skipped
    }
    assert (Path(undisturbed.output_path) / "model.safetensors").stat().st_mtime_ns == stamp


def test_killed_twice_a_run_ends_with_the_losses_of_an_undisturbed_one(
    base: Path, tmp_path: Path, undisturbed: TrainSpec
) -> None:
    spec = make_spec(tmp_path, base=base)
    for wanted in (9, 31):  # not at a checkpoint: those come by time
        status = signal_when(start(spec), signal.SIGKILL, partial(reached, spec=spec, step=wanted))
        assert status == -signal.SIGKILL
        spec = again(spec)
    assert finish(spec) == 0
    begun = events(spec, "started")
    assert 0 < begun[-1]["resumed_from_step"] <= max(losses(spec))
    assert_same_course(spec, undisturbed)


def test_asked_to_stop_a_run_yields_and_resumes(
    base: Path, tmp_path: Path, undisturbed: TrainSpec
) -> None:
    spec = make_spec(tmp_path, base=base, checkpoint_every_seconds=600.0)
    status = signal_when(start(spec), signal.SIGTERM, lambda: len(losses(spec)) >= 5)
    assert status == 0
    yielded = events(spec)[-1]
    assert yielded["kind"] == "yielded"
    assert 5 <= yielded["step"] < 48
    assert finish(again(spec)) == 0
    assert events(spec, "started")[-1]["resumed_from_step"] == yielded["step"]
    assert_same_course(spec, undisturbed)


def test_adapters_resume_and_load_with_peft(base: Path, tmp_path: Path) -> None:
    import peft

    whole = make_spec(tmp_path / "whole", base=base, tuning="lora", lora_dropout=0.1, epochs=1.0)
    assert run_here(whole) == 0
    spec = make_spec(tmp_path / "stopped", base=base, tuning="lora", lora_dropout=0.1, epochs=1.0)
    assert signal_when(start(spec), signal.SIGTERM, lambda: len(losses(spec)) >= 4) == 0
    assert finish(again(spec)) == 0
    assert losses(spec) == pytest.approx(losses(whole), abs=1e-6)  # dropout's numbers included
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.arange(20)[None]
    expected = plain(ids).logits
    adapted = peft.PeftModel.from_pretrained(plain, spec.output_path)
    assert not torch.allclose(adapted(ids).logits, expected)
    config = json.loads((Path(spec.output_path) / "adapter_config.json").read_text())
    assert {"q_proj", "down_proj"} < set(config["target_modules"])


def test_a_budget_of_seconds_ends_a_run_with_its_schedule(base: Path, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, base=base, epochs=10_000.0, max_seconds=1.0, scheduler="linear")
    assert run_here(spec) == 0
    last = events(spec, "step")[-1]
    assert last["step"] < last["total_steps"]
    assert last["learning_rate"] < 0.25 * spec.learning_rate  # a busy machine has long steps
    assert events(spec)[-1]["step"] == last["step"]


def test_a_bad_line_fails_the_run_with_its_number(base: Path, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, base=base)
    with Path(spec.train_path).open("a") as file:
        file.write('{"messages": []}\n')
    assert run_here(spec) == 1
    (failed,) = events(spec)
    assert (failed["kind"], failed["reason"]) == ("failed", "bad_data")
    assert "train.jsonl line 65" in failed["message"]
    assert failed["remedy"]


def test_pickled_weights_and_foreign_code_are_refused(base: Path, tmp_path: Path) -> None:
    pickled = Path(shutil.copytree(base, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    spec = make_spec(tmp_path / "one", base=pickled)
    assert run_here(spec) == 1
    assert events(spec)[-1]["reason"] == "unsupported_model"
    assert "no safetensors" in events(spec)[-1]["message"]
    foreign = Path(shutil.copytree(base, tmp_path / "foreign"))
    config = json.loads((foreign / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (foreign / "config.json").write_text(json.dumps(config))
    spec = make_spec(tmp_path / "two", base=foreign)
    assert run_here(spec) == 1
    assert "auto_map" in events(spec)[-1]["message"]


def test_a_loss_that_is_no_number_fails_the_run(base: Path, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, base=base, learning_rate=1e30, warmup_ratio=0.0)
    assert run_here(spec) == 1
    assert events(spec)[-1]["reason"] == "nan_loss"


def test_a_refused_spec_is_told_where_it_asked_to_be_told(base: Path, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, base=base)
    path = tmp_path / "spec-9.json"
    path.write_text(json.dumps(spec.to_json() | {"method": "magic", "attempt": 9}))
    assert attempt(path, stop=threading.Event(), started=time.monotonic()) == 1
    (failed,) = events(spec)
    assert (failed["reason"], failed["attempt"]) == ("bad_spec", 9)
    assert failed["message"].startswith("method")


def test_checkpoints_of_other_data_are_refused(
    base: Path, tmp_path: Path, undisturbed: TrainSpec
) -> None:
    spec = make_spec(tmp_path, base=base, rows=32)
    shutil.copytree(undisturbed.checkpoint_path, spec.checkpoint_path)
    assert run_here(spec) == 1
    assert events(spec)[-1]["reason"] == "bad_spec"
    assert "checkpoint_path" in events(spec)[-1]["message"]


def test_two_processes_cannot_train_one_run(base: Path, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, base=base, epochs=10_000.0)
    first = start(spec)
    try:
        while first.poll() is None and not losses(spec):
            time.sleep(0.01)
        assert run_here(again(spec)) == 3
    finally:
        first.terminate()
        assert first.wait(timeout=60) == 0
    assert {event["attempt"] for event in events(spec)} == {1}


def test_a_result_is_whole_by_its_own_manifest(undisturbed: TrainSpec) -> None:
    facts = folders.read_facts(Path(undisturbed.output_path))
    assert facts["run_id"] == undisturbed.run_id
    assert facts["step"] == 48
