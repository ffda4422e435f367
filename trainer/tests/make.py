"""A tiny random Qwen3, its tokenizer, and data for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from trainer import launch
from trainer.__main__ import attempt
from trainer.progress import read_progress
from trainer.spec import Hyperparameters, TrainSpec

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like Qwen3's: the last answer is shown with its (empty) thoughts, earlier ones without.
REWRITING_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CITIES = ("Hamburg", "Lyon", "Porto", "Gdansk", "Turin", "Malmo", "Cork", "Basel")


def make_tokenizer(*, chat_template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([json.dumps(row) for row in make_rows(50)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
    )


def make_base(folder: Path, *, hidden_size: int = 32) -> Path:
    torch.manual_seed(7)
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_rows(count: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        city = CITIES[number % len(CITIES)]
        ask = f"Where is parcel {number * 37 % 1000}?" + " Please hurry." * (number % 5)
        answer = json.dumps({"city": city, "parcel": number * 37 % 1000})
        rows.append(
            {
                "messages": [
                    {"role": "system", "content": "You answer with JSON and nothing else."},
                    {"role": "user", "content": f"{ask} I live in {city}."},
                    {"role": "assistant", "content": answer},
                ]
            }
        )
    return rows


def preference_rows(count: int) -> list[dict[str, Any]]:
    """The right answer before one with another city and number."""
    rows = []
    for number, row in enumerate(make_rows(count)):
        *asked, answer = row["messages"]
        wrong = {"city": CITIES[(number * 5 + 3) % len(CITIES)], "parcel": number}
        rows.append(
            {
                "input": {"messages": asked},
                "preferred_output": [answer],
                "non_preferred_output": [{"role": "assistant", "content": json.dumps(wrong)}],
            }
        )
    return rows


def label_rows(count: int) -> list[dict[str, Any]]:
    """Right and wrong answers in turn."""
    rows = []
    for number, pair in enumerate(preference_rows(count)):
        good = number % 2 == 0
        (answer,) = pair["preferred_output" if good else "non_preferred_output"]
        rows.append({"messages": [*pair["input"]["messages"], answer], "label": good})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_spec(root: Path, *, base: Path, rows: int = 64, **changes: Any) -> TrainSpec:
    """A spec whose every file lies under `root`; `changes` may name hyperparameters too."""
    root.mkdir(parents=True, exist_ok=True)
    known = Hyperparameters.__dataclass_fields__
    given: dict[str, Any] = {
        "epochs": 3.0,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "log_every_steps": 1,
    }
    given |= {"checkpoint_every_seconds": 0.05}
    given |= {name: changes.pop(name) for name in list(changes) if name in known}
    values = {
        "run_id": "run-1",
        "base_path": str(base),
        "train_path": str(write_rows(root / "train.jsonl", make_rows(rows))),
        "eval_path": str(write_rows(root / "eval.jsonl", make_rows(rows + 8)[rows:])),
        "output_path": str(root / "output"),
        "checkpoint_path": str(root / "checkpoints"),
        "progress_path": str(root / "progress.jsonl"),
        "tuning": "full",
        "dtype": "float32",
    }
    return TrainSpec(**(values | changes), hyperparameters=Hyperparameters(**given))


def write_spec(spec: TrainSpec) -> Path:
    path = Path(spec.progress_path).with_name(f"spec-{spec.attempt}.json")
    path.write_text(json.dumps(spec.to_json()))
    return path


def start(spec: TrainSpec) -> subprocess.Popen[bytes]:
    """The trainer in a process of its own, its log beside the spec."""
    path = write_spec(spec)
    with path.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            launch.command(spec, path), stdout=log, stderr=log, start_new_session=True
        )


def run_here(spec: TrainSpec) -> int:
    """The same within this process, which has torch loaded already."""
    return attempt(write_spec(spec), stop=threading.Event(), started=time.monotonic())


def finish(spec: TrainSpec, *, seconds: float = 60) -> int:
    return start(spec).wait(timeout=seconds)


def events(spec: TrainSpec, kind: str | None = None) -> list[dict[str, Any]]:
    found, _ = read_progress(Path(spec.progress_path))
    return [event for event in found if kind in (None, event["kind"])]


def losses(spec: TrainSpec) -> dict[int, float]:
    """Loss by step; a step told twice counts as its later attempt told it."""
    return {event["step"]: event["loss"] for event in events(spec, "step")}


def signal_when(
    process: subprocess.Popen[bytes], number: int, seen: Callable[[], bool], *, seconds: float = 60
) -> int:
    """Send a signal as soon as `seen` holds; returns the exit status."""
    end = time.monotonic() + seconds
    while not seen() and process.poll() is None:
        assert time.monotonic() < end, "nothing was seen in time"
        time.sleep(0.005)
    if process.poll() is None:
        os.kill(process.pid, signal.Signals(number))
    return process.wait(timeout=seconds)
