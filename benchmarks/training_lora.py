"""LoRA on Qwen3-0.6B's shape: our trainer beside TRL, a bare PEFT loop and LLaMA-Factory.

    python benchmarks/training_lora.py [--quick] [--threads N] [--rounds N] [--rows N] [--only NAME ...]

Random weights, chat rows of 256 to 512 tokens with the loss on the answer (about half), two rows a
step, rank 16 on all linear layers, bfloat16. Everybody gets the same tokens, labels and number of
steps, in a process of its own, in turn. Rates count tokens that are not padding, over all steps but
the first. TRL runs as it comes, and as somebody would set it who looks for speed; LLaMA-Factory with
its own defaults, from the environment that BENCH_LLAMA_FACTORY names
(scripts/engine_environment.py llama-factory --into FOLDER); without it a line says that it is missing.

The ceiling is what four operations a weight and token (the head's at label positions only) allow at
the matrix rate measured in the same run. The last line of output is one JSON object; the exit
status is 1 if a target is missed.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import checkpoints, limits  # noqa: E402
from benchmarks.training import run_pinned  # noqa: E402
from trainer.spec import Hyperparameters, TrainSpec  # noqa: E402

OURS, TRL, TRL_BFLOAT16, BARE, LLAMA_FACTORY = (
    "ours", "trl", "trl_bfloat16", "bare", "llama_factory",
)  # fmt: skip
NAMES = (OURS, TRL, TRL_BFLOAT16, BARE, LLAMA_FACTORY)
TARGETS = {TRL: 3.5, LLAMA_FACTORY: 1.3}  # times their tokens a second
LOSS_APART = 0.01  # of the reference's mean loss a label over all steps
MODELS = Path(os.environ.get("BENCH_MODELS", ROOT / ".factory" / "benchmarks"))


@dataclass(frozen=True)
class Seen:
    tokens_per_second: float  # without the first step
    first_step_seconds: float
    training_seconds: float
    process_seconds: float
    peak_bytes: int
    mean_loss: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of fewer steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--rows", type=int, help="examples; two make a step")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return train_with_ours(json.loads(options.child.read_text()))
    names = [name for name in NAMES if name in options.only]
    if LLAMA_FACTORY in names and not interpreter_of(LLAMA_FACTORY):
        print("BENCH_LLAMA_FACTORY names no environment: LLaMA-Factory is left out", flush=True)
        names.remove(LLAMA_FACTORY)
    with tempfile.TemporaryDirectory(prefix="benchmark-training-lora-") as folder:
        result = measure(
            Path(folder),
            names=names,
            rows=options.rows or (6 if options.quick else 12),
            rounds=options.rounds or (1 if options.quick else 2),
            threads=options.threads,
        )
    print(json.dumps(result))
    return 0 if all(target["met"] for target in result["targets"].values()) else 1


def interpreter_of(name: str) -> str | None:
    if name != LLAMA_FACTORY:
        return sys.executable
    folder = os.environ.get("BENCH_LLAMA_FACTORY")
    return str(Path(folder) / "bin" / "python") if folder else None


def measure(
    folder: Path, *, names: list[str], rows: int, rounds: int, threads: int
) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    settings: dict[str, Any] = {
        "base": str(checkpoints.make_checkpoint(MODELS, "0.6B")),
        "train": str(write_rows(folder / "train.jsonl", rows)),
        "tokens": str(folder / "tokens.jsonl"),
        "threads": threads,
        "cores": cores,
        "batch_size": 2,
        "learning_rate": 2e-4,
        "max_length_tokens": 512,
        "seed": 42,
    }
    settings["total_tokens"], labels = write_tokens(folder, settings)
    label_share = labels / settings["total_tokens"]
    rate = limits.measure(threads, "cpu")["matrix_operations_per_second"]
    seen: dict[str, list[Seen]] = {name: [] for name in names}
    for number in range(rounds):
        for name, told in seen.items():
            run_folder = folder / f"{name}-{number}"
            run_folder.mkdir()
            told.append(run(name, run_folder, settings))
            print(f"round {number + 1} {name}: {told[-1]}", file=sys.stderr, flush=True)
    return summary(seen, rate=rate, label_share=label_share, settings=settings, rows=rows)


def write_rows(path: Path, count: int) -> Path:
    """Chats of words that the tokenizer knows whole; lengths spread evenly, half of it the answer."""
    known = json.loads((checkpoints.TOKENIZER / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(word for word in known if word[0] == "Ġ" and word[1:].isalpha())
    with path.open("w") as file:
        for number in range(count):
            length = 246 + (number * 7919 % count) * 256 // count
            text = [words[(number * 1009 + i * i * 31) % len(words)][1:] for i in range(length)]
            turns = (("user", text[: length // 2]), ("assistant", text[length // 2 :]))
            messages = [{"role": role, "content": " ".join(part)} for role, part in turns]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def write_tokens(folder: Path, settings: dict[str, Any]) -> tuple[int, int]:
    """What everybody trains on; returns the number of tokens and of labels."""
    from trainer.data import tokenize_file
    from trainer.model import load_tokenizer

    tokenizer = load_tokenizer(make_spec(folder, settings))
    limit = settings["max_length_tokens"]
    data = tokenize_file(Path(settings["train"]), tokenizer, max_length_tokens=limit)
    with Path(settings["tokens"]).open("w") as file:
        for example in data.examples:
            ids = example.tokens.tolist()
            labels = [t if mark else -100 for t, mark in zip(ids, example.marks, strict=True)]
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
    return data.tokens, sum(int(example.marks.sum()) for example in data.examples)


def run(name: str, folder: Path, settings: dict[str, Any]) -> Seen:
    child = folder / "child.json"
    child.write_text(json.dumps(settings | {"name": name, "folder": str(folder)}))
    if name == OURS:
        (folder / "spec.json").write_text(json.dumps(make_spec(folder, settings).to_json()))
        command = [sys.executable, str(Path(__file__)), "--child", str(child)]
    else:
        script = str(Path(__file__).with_name("training_references.py"))
        command = [interpreter_of(name) or "", script, str(child)]
    began = time.monotonic()
    usage = run_pinned(command, log=folder / "log", settings=settings)
    took = json.loads((folder / "took.json").read_text())
    ends, tokens = took["ends"], took["tokens"]
    if tokens[-1] != settings["total_tokens"]:
        raise RuntimeError(f"{name} trained on {tokens[-1]} tokens, not {settings['total_tokens']}")
    return Seen(
        tokens_per_second=round((tokens[-1] - tokens[1]) / (ends[-1] - ends[1]), 1),
        first_step_seconds=round(ends[1] - ends[0], 2),
        training_seconds=round(ends[-1] - ends[0], 2),
        process_seconds=round(time.monotonic() - began, 2),
        peak_bytes=usage.ru_maxrss * 1024,
        mean_loss=round(statistics.mean(took["losses"]), 4),
    )


def make_spec(folder: Path, settings: dict[str, Any]) -> TrainSpec:
    return TrainSpec(
        run_id="benchmark",
        base_path=settings["base"],
        train_path=settings["train"],
        output_path=str(folder / "output"),
        checkpoint_path=str(folder / "checkpoints"),
        progress_path=str(folder / "progress.jsonl"),
        tuning="lora",
        dtype="bfloat16",
        threads=settings["threads"],
        cores=tuple(settings["cores"]),
        hyperparameters=Hyperparameters(
            epochs=1.0,
            learning_rate=settings["learning_rate"],
            batch_size=settings["batch_size"],
            max_length_tokens=settings["max_length_tokens"],
            warmup_ratio=0.0,
            scheduler="constant",
            weight_decay=0.0,
            seed=settings["seed"],
            checkpoint_every_seconds=100_000.0,
            log_every_steps=1,
        ),
    )


def train_with_ours(settings: dict[str, Any]) -> int:
    """`python -m trainer`, with a clock at its steps."""
    from trainer import loop
    from trainer.__main__ import attempt

    folder = Path(settings["folder"])
    took: dict[str, list[float]] = {"ends": [], "tokens": [0], "losses": []}

    class Timed(loop.Training):
        def _step(self) -> Any:
            if not took["ends"]:
                took["ends"].append(time.monotonic())
            outcome = super()._step()
            took["ends"].append(time.monotonic())
            took["tokens"].append(self._position.tokens_total)
            took["losses"].append(self._recent[-1])
            return outcome

    loop.Training = Timed  # type: ignore[misc]
    status = attempt(folder / "spec.json", stop=threading.Event(), started=time.monotonic())
    (folder / "took.json").write_text(json.dumps(took))
    return status


def summary(
    seen: dict[str, list[Seen]],
    *,
    rate: float,
    label_share: float,
    settings: dict[str, Any],
    rows: int,
) -> dict[str, Any]:
    def middle(name: str) -> dict[str, float]:
        fields = Seen.__dataclass_fields__
        return {f: statistics.median(getattr(one, f) for one in seen[name]) for f in fields}

    figures = {name: middle(name) for name in seen}
    ours = figures.get(OURS) or asdict(next(iter(seen.values()))[0])
    weights = checkpoints.layer_parameters("0.6B") + label_share * checkpoints.head_parameters(
        "0.6B"
    )
    ceiling = rate / (4 * weights)
    ratios = {"of the ceiling": ours["tokens_per_second"] / ceiling}
    targets: dict[str, Any] = {}
    for name in (other for other in figures if other != OURS):
        other = figures[name]
        times = ours["tokens_per_second"] / other["tokens_per_second"]
        ratios[f"times {name}'s tokens a second"] = times
        ratios[f"peak memory, of {name}'s"] = ours["peak_bytes"] / other["peak_bytes"]
        apart = abs(ours["mean_loss"] / other["mean_loss"] - 1)
        targets[f"loss a label, apart from {name}'s"] = {
            "at_most": LOSS_APART,
            "measured": round(apart, 5),
            "met": apart <= LOSS_APART,
        }
        if name in TARGETS:
            targets[f"tokens a second, times {name}'s"] = {
                "at_least": TARGETS[name],
                "measured": round(times, 3),
                "met": times >= TARGETS[name],
            }
    return {
        "benchmark": "training_lora",
        "settings": {
            "shape": "Qwen3-0.6B",
            "rows": rows,
            "label_share": round(label_share, 3),
            "threads": settings["threads"],
            "batch_size": settings["batch_size"],
        },
        "figures": ours
        | {
            f"{name} {field}": value
            for name, told in figures.items()
            if name != OURS
            for field, value in told.items()
        }
        | {"machine matrix_operations_per_second": rate, "machine ceiling": round(ceiling, 1)},
        "reference": figures.get(TRL, {}),
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "targets": targets,
    }


if __name__ == "__main__":
    sys.exit(main())
