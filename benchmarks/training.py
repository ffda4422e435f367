"""Our trainer beside TRL's SFTTrainer: same weights, data, batch, rate, steps, seed, threads.

    python benchmarks/training.py [--quick] [--threads N] [--rounds N]

Full fine-tuning of a Qwen3 of 4.7 M parameters on the demo's support messages, one epoch, nothing
saved on the way. Each run has a process of its own, pinned to the same cores, and takes turns with
the others. Rates count the examples' own tokens (no padding) over the time spent training, without
start-up. With one thread the compared rate is the one by CPU time, which is that by the clock on
an idle machine and holds on a busy one too; both are told. TRL runs twice: as it comes (float32
weights under bfloat16 autocast) and with weights in bfloat16; the quicker of the two is the
reference of speed. Losses are those of the saved models on held-out messages, counted by one and the
same code; which example comes when moves them by more than number formats do, so a third TRL is fed
in our order and is the reference of losses. The last line of output is one JSON object; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from demo.data import DATASETS, write_dataset  # noqa: E402
from trainer.spec import Hyperparameters, TrainSpec  # noqa: E402

SHIPPED_MODEL = ROOT / "demo" / "tiny_qwen3" / "model"
OURS, TRL, TRL_BFLOAT16, TRL_IN_ORDER = "ours", "trl", "trl_bfloat16", "trl_in_our_order"
TARGET_RATE = 4.0  # times the reference's tokens a second
TARGET_LOSS = 1.02  # times the reference's held-out loss, at most


@dataclass(frozen=True)
class Seen:
    tokens_per_second: float
    tokens_per_cpu_second: float
    training_seconds: float
    training_cpu_seconds: float
    process_seconds: float  # start-up, reading and saving included
    process_cpu_seconds: float
    peak_bytes: int
    heldout_loss: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of fewer steps")
    # One, as the demo trains; threads that wait for each other measure the neighbours instead.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        told = json.loads(options.child.read_text())
        return train_with_ours(told) if told["name"] == OURS else train_with_trl(told)
    rounds = options.rounds or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory(prefix="benchmark-training-") as folder:
        result = measure(
            Path(folder),
            examples=320 if options.quick else 2400,
            threads=options.threads,
            rounds=rounds,
        )
    print(json.dumps(result))
    return 0 if all(target["met"] for target in result["targets"].values()) else 1


def measure(folder: Path, *, examples: int, threads: int, rounds: int) -> dict[str, Any]:
    base = SHIPPED_MODEL if (SHIPPED_MODEL / "config.json").is_file() else make_base(folder)
    paths = write_dataset(DATASETS[0], folder / "data", train=examples, heldout=100, harder=1)
    cores = sorted(os.sched_getaffinity(0))[:threads]
    settings = {
        "base": str(base),
        "train": str(paths["train"]),
        "heldout": str(paths["heldout"]),
        "threads": threads,
        "cores": cores,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "max_length_tokens": 512,
        "seed": 42,
    }
    seen: dict[str, list[Seen]] = {OURS: [], TRL: [], TRL_BFLOAT16: [], TRL_IN_ORDER: []}
    for number in range(rounds):
        for name, told in seen.items():
            run_folder = folder / f"{name}-{number}"
            run_folder.mkdir()
            told.append(run(name, run_folder, settings))
            print(f"round {number + 1} {name}: {told[-1]}", file=sys.stderr)
    return summary(seen, settings=settings, examples=examples, rounds=rounds)


def run(name: str, folder: Path, settings: dict[str, Any]) -> Seen:
    spec = make_spec(folder, settings)
    settings = settings | ({"order": order_of(spec)} if name == TRL_IN_ORDER else {})
    (folder / "spec.json").write_text(json.dumps(spec.to_json()))
    child = folder / "child.json"
    child.write_text(json.dumps(settings | {"name": name, "folder": str(folder)}))
    command = [sys.executable, str(Path(__file__)), "--child", str(child)]
    began = time.monotonic()
    usage = run_pinned(command, log=folder / "log", settings=settings)
    process_seconds = time.monotonic() - began
    tokens = train_tokens(spec)
    took = json.loads((folder / "took.json").read_text())
    return Seen(
        tokens_per_second=round(tokens / took["seconds"], 1),
        tokens_per_cpu_second=round(tokens / took["cpu_seconds"], 1),
        training_seconds=round(took["seconds"], 2),
        training_cpu_seconds=round(took["cpu_seconds"], 2),
        process_seconds=round(process_seconds, 2),
        process_cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        peak_bytes=usage.ru_maxrss * 1024,
        heldout_loss=round(heldout_loss(spec), 4),
    )


@contextmanager
def timed(folder: Path) -> Iterator[None]:
    """Write how long the body took, by the clock and by CPU."""
    clock, cpu = time.monotonic(), time.process_time()
    yield
    took = {"seconds": time.monotonic() - clock, "cpu_seconds": time.process_time() - cpu}
    (folder / "took.json").write_text(json.dumps(took))


def make_spec(folder: Path, settings: dict[str, Any]) -> TrainSpec:
    return TrainSpec(
        run_id="benchmark",
        base_path=settings["base"],
        train_path=settings["train"],
        output_path=str(folder / "output"),
        checkpoint_path=str(folder / "checkpoints"),
        progress_path=str(folder / "progress.jsonl"),
        tuning="full",
        dtype="bfloat16",
        threads=settings["threads"],
        cores=tuple(settings["cores"]),
        hyperparameters=Hyperparameters(
            epochs=1.0,
            learning_rate=settings["learning_rate"],
            batch_size=settings["batch_size"],
            max_length_tokens=settings["max_length_tokens"],
            warmup_ratio=0.1,
            scheduler="linear",
            weight_decay=0.0,
            seed=settings["seed"],
            checkpoint_every_seconds=100_000.0,
            log_every_steps=1,
        ),
    )


def run_pinned(
    command: list[str], *, log: Path, settings: dict[str, Any]
) -> resource.struct_rusage:
    """Run to the end on the given cores; returns what the process used."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(settings["threads"]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=ROOT)
        os.sched_setaffinity(process.pid, settings["cores"])
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed:\n{log.read_text()[-3000:]}")
    return usage


def train_tokens(spec: TrainSpec) -> int:
    from trainer.data import tokenize_file
    from trainer.model import load_tokenizer

    limit = spec.hyperparameters.max_length_tokens
    tokenizer = load_tokenizer(spec)
    return tokenize_file(Path(spec.train_path), tokenizer, max_length_tokens=limit).tokens


def order_of(spec: TrainSpec) -> list[int]:
    """The examples as our trainer takes them, one epoch."""
    from trainer.batches import StepPlan
    from trainer.data import tokenize_file
    from trainer.model import load_tokenizer

    limit = spec.hyperparameters.max_length_tokens
    tokens = tokenize_file(Path(spec.train_path), load_tokenizer(spec), max_length_tokens=limit)
    plan = StepPlan([len(each.tokens) for each in tokens.examples], spec.hyperparameters)
    return [index for micro_batch in plan.first_epoch() for index in micro_batch]


def heldout_loss(spec: TrainSpec) -> float:
    """Loss a label of a saved model, in float32, by transformers' own head."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.data import tokenize_file
    from trainer.model import load_tokenizer

    path = Path(spec.train_path).with_name("heldout.jsonl")
    torch.set_num_threads(1)
    held_out = tokenize_file(path, load_tokenizer(spec), max_length_tokens=512)
    model = AutoModelForCausalLM.from_pretrained(spec.output_path, dtype=torch.float32).eval()
    total, labels = 0.0, 0
    with torch.no_grad():
        for example in held_out.examples:
            ids = torch.from_numpy(example.tokens.astype("int64"))
            logits = model(input_ids=ids[None]).logits[0, :-1]
            wanted = ids.masked_fill(~torch.from_numpy(example.marks), -100)[1:]
            total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
            labels += int(example.marks.sum())
    return total / labels


def train_with_ours(settings: dict[str, Any]) -> int:
    """`python -m trainer`, with a clock around its steps."""
    from trainer import loop
    from trainer.__main__ import attempt

    folder = Path(settings["folder"])

    class Timed(loop.Training):
        def _step_until_done(self) -> bool:
            with timed(folder):
                return super()._step_until_done()

    loop.Training = Timed  # type: ignore[misc]
    return attempt(folder / "spec.json", stop=threading.Event(), started=time.monotonic())


def train_with_trl(settings: dict[str, Any]) -> int:
    import torch

    torch.set_num_threads(settings["threads"])
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    lines = Path(settings["train"]).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["messages"] for line in lines]
    rows = [rows[index] for index in settings.get("order", range(len(rows)))]
    output = str(Path(settings["folder"]) / "output")
    bfloat16_weights = settings["name"] == TRL_BFLOAT16
    data = Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows])
    config = SFTConfig(
        output_dir=output,
        num_train_epochs=1,
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=settings["max_length_tokens"],
        seed=settings["seed"],
        train_sampling_strategy="sequential" if "order" in settings else "random",
        bf16=not bfloat16_weights,
        gradient_checkpointing=False,  # theirs is on as it comes; memory is no matter here
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10,
        model_init_kwargs={"dtype": "bfloat16" if bfloat16_weights else "float32"},
    )
    tokenizer = AutoTokenizer.from_pretrained(settings["base"])
    trainer = SFTTrainer(
        model=settings["base"], args=config, train_dataset=data, processing_class=tokenizer
    )
    with timed(Path(settings["folder"])):
        trainer.train()
    trainer.save_model(output)
    return 0


def make_base(folder: Path) -> Path:
    """A random Qwen3 of 4.7 M parameters and a tokenizer for the demo's messages."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    texts = write_dataset(DATASETS[0], folder / "words", train=1500, heldout=1, harder=1)["train"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train(
        [str(texts)],
        trainers.BpeTrainer(
            vocab_size=6144,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    )
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=6144,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    base = folder / "base"
    Qwen3ForCausalLM(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    return base


def summary(
    seen: dict[str, list[Seen]], *, settings: dict[str, Any], examples: int, rounds: int
) -> dict[str, Any]:
    def middle(name: str) -> dict[str, float]:
        fields = Seen.__dataclass_fields__
        return {f: statistics.median(getattr(one, f) for one in seen[name]) for f in fields}

    figures = {name: middle(name) for name in seen}
    rate = "tokens_per_cpu_second" if settings["threads"] == 1 else "tokens_per_second"
    quicker = max((TRL, TRL_BFLOAT16), key=lambda name: figures[name][rate])
    ours, reference = figures[OURS], figures[quicker]
    ratios = {field: round(ours[field] / reference[field], 3) for field in ours}
    same_order = figures[TRL_IN_ORDER]["heldout_loss"]
    ratios["heldout_loss"] = round(ours["heldout_loss"] / same_order, 3)
    return {
        "benchmark": "training",
        "model": "shipped" if settings["base"] == str(SHIPPED_MODEL) else "random 4.7 M",
        "settings": {
            "threads": settings["threads"],
            "examples": examples,
            "rounds": rounds,
            "batch_size": settings["batch_size"],
            "learning_rate": settings["learning_rate"],
        },
        "figures": ours,
        "reference": reference | {"heldout_loss": same_order},
        "reference_is": quicker,
        "references": {name: told for name, told in figures.items() if name != OURS},
        "ratios": ratios,
        "targets": {
            f"{rate}, times the quicker TRL's": {
                "at_least": TARGET_RATE,
                "measured": ratios[rate],
                "met": ratios[rate] >= TARGET_RATE,
            },
            "heldout_loss, times TRL's in the same order": {
                "at_most": TARGET_LOSS,
                "measured": ratios["heldout_loss"],
                "met": ratios["heldout_loss"] <= TARGET_LOSS,
            },
        },
    }


if __name__ == "__main__":
    sys.exit(main())
