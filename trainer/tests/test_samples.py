"""Sample answers: fixed prompts, greedy, no say in the losses, bounded in time."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer import samples
from trainer.model import load_model, load_tokenizer
from trainer.samples import Sampler
from trainer.tests.make import events, losses, make_rows, make_spec, run_here


def test_answers_are_told_on_the_way_and_change_no_loss(base: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"max_steps": 6, "epochs": 1.0, "lora_dropout": 0.1, "tuning": "lora"}
    plain = make_spec(tmp_path / "plain", base=base, **given)
    sampled = make_spec(tmp_path / "sampled", base=base, sample_every_steps=3, **given)
    assert run_here(plain) == run_here(sampled) == 0
    assert losses(plain) == losses(sampled)
    assert events(plain, "sample") == []
    told = events(sampled, "sample")
    assert [line["step"] for line in told] == [0, 3, 6]
    held_out = [row["messages"][1]["content"] for row in make_rows(72)[64:]]
    for line in told:
        assert [sample["prompt"] for sample in line["samples"]] == [
            held_out[at] for at in (0, 2, 4)
        ]


def test_the_answer_is_what_generate_gives(base: Path, tmp_path: Path) -> None:
    spec = make_spec(
        tmp_path, base=base, sample_every_steps=1, sample_prompts="Where is it?\n\nSay: Porto"
    )
    loaded, tokenizer = load_model(spec), load_tokenizer(spec)
    sampler = Sampler.of(spec, tokenizer)
    assert sampler is not None
    answers = sampler.ask(loaded, stopping=lambda: False)
    assert [one["prompt"] for one in answers] == ["Where is it?", "Say: Porto"]
    assert loaded.model.training
    loaded.model.eval()
    for one in answers:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": one["prompt"]}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        made = loaded.model.generate(
            **ids,
            max_new_tokens=samples.ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
        )
        text = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert one["answer"] == text[: samples.TEXT_CHARACTERS]


def test_time_and_a_wish_to_stop_end_answers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base=base, sample_every_steps=1)
    sampler = Sampler.of(spec, load_tokenizer(spec))
    assert sampler is not None
    loaded = load_model(spec)
    assert {one["answer"] for one in sampler.ask(loaded, stopping=lambda: True)} == {""}
    monkeypatch.setattr(samples, "SECONDS", 0.0)
    assert {one["answer"] for one in sampler.ask(loaded, stopping=lambda: False)} == {""}


def test_prompts_come_from_pairs_too(base: Path, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, base=base, sample_every_steps=1)
    pair = {"input": {"messages": [{"role": "user", "content": "Which?"}]}}
    Path(str(spec.eval_path)).write_text(json.dumps(pair) + "\n")
    sampler = Sampler.of(spec, load_tokenizer(spec))
    assert sampler is not None
    (answer,) = sampler.ask(load_model(spec), stopping=lambda: False)
    assert answer["prompt"] == "Which?"
