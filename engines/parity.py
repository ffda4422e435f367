"""Whether a trained result, served, is the model that was trained: `python -m engines.parity SPEC`.

The trainer leaves what its model in memory made of some prompts (parity.json, see docs/decisions).
This program loads the result as the built-in engine serves it, reads the prompts and generates
nothing: it gives the engine the recorded tokens one by one, as if it had chosen them, and compares
the log-probabilities. An adapter is checked twice, on its base and merged into it.

Weights that an adapter was merged into are checked as they are read back, against base and adapter
apart in memory and, where the record has the trainer's own numbers too, against these.

SPEC is JSON: result, base (folders), is_adapter, way (what whole weights are called in the report:
full, or merged), device, dtype, threads, cores, report (a path).
The report is JSON: {"checks": [{"way", "passed", "max_abs_logprob_diff", "mean_abs_logprob_diff",
"reason"}], "prompts", "dtype", "tolerance", "template_sha256", "tokenizer_sha256", ...}; `passed` is
null where this engine cannot serve the result that way, and `reason` says why.

Exit status: 0 a report was written, whatever it says; 1 none could be.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.host import ServeSpec
from engines.process import CannotServe
from engines.protocol.errors import ApiError

if TYPE_CHECKING:  # torch sizes its pools when it loads: only once the cores are settled
    from engines.builtin.lora import Adapter
    from engines.builtin.runner import StepRunner

logger = logging.getLogger("engines.parity")

FILE = "parity.json"
AT_ONCE = 8  # sequences in a step
# Largest and mean difference of a log-probability, in nats. float32 differs by the order of sums.
# bfloat16 keeps 8 bits: a logit of 16 to 32 is rounded by up to 0.06, and two ways of computing it
# round differently in every layer; a wrong template, scale or missing adapter is off by far more
# in the mean.
TOLERANCES = {"float32": (2e-3, 2e-4), "bfloat16": (0.75, 0.06), "float16": (0.2, 0.02)}
TOLERANCES["nf4"] = (3.0, 0.3)  # trained on a base in 4 bits, which is served in all of its own


@dataclass(frozen=True, kw_only=True)
class ParitySpec:
    """What to compare. Paths are absolute; `base` is the folder that an adapter is served on."""

    result: str
    base: str
    is_adapter: bool
    report: str
    way: str = "full"
    device: str = "cpu"
    dtype: str = "bfloat16"
    threads: int = 1
    cores: Sequence[int] = ()


def main(arguments: Sequence[str]) -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    if len(arguments) != 1:
        logger.error("usage: python -m engines.parity SPEC_FILE")
        return 1
    spec = ParitySpec(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    if spec.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec.cores)
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        told = compare(spec)
    except (OSError, ValueError, KeyError):
        logger.exception("the result cannot be compared")
        return 1
    beside = Path(f"{spec.report}.new")
    beside.write_text(json.dumps(told), encoding="utf-8")
    beside.replace(spec.report)
    logger.info("%s", told["checks"])
    return 0


def compare(spec: ParitySpec) -> dict[str, Any]:
    """The report. Raises OSError or ValueError where the record cannot be read."""
    record = json.loads((Path(spec.result) / FILE).read_text(encoding="utf-8"))
    ways = ("adapter", "merged") if spec.is_adapter else (spec.way,)
    tolerance = TOLERANCES[record.get("numbers", spec.dtype)]
    checks: list[dict[str, Any]] = []
    for way in ways:
        try:
            found = _log_probabilities(spec, way, record["prompts"])
        except (CannotServe, ApiError, NotImplementedError) as refusal:
            checks.append({"way": way, "passed": None, "reason": str(refusal)})
            continue
        checks.append({"way": way} | judge(record["prompts"], found, tolerance=tolerance))
        if "trained_numbers" in record:
            checks.append({"way": "trained"} | _judge_trained(record, found))
    hashes = _hashes(spec.base if spec.is_adapter else spec.result)
    differing = [name for name, value in hashes.items() if value != record[name]]
    if differing:
        names = " and ".join(name.removesuffix("_sha256") for name in differing)
        text = f"the {names} that it is served with is not the one that it was trained with"
        checks.append({"way": "text", "passed": False, "reason": text})
    return {
        "checks": checks,
        "prompts": len(record["prompts"]),
        "dtype": spec.dtype,
        "tolerance": {"max": tolerance[0], "mean": tolerance[1]},
        **{name: record[name] for name in hashes},
    }


def _judge_trained(record: Mapping[str, Any], found: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Beside the trained model itself, in whatever numbers its base was while it was trained on."""
    prompts = [{"logprobs": prompt["trained"]} for prompt in record["prompts"]]
    return judge(prompts, found, tolerance=TOLERANCES[record["trained_numbers"]])


def judge(
    prompts: Sequence[Mapping[str, Any]],
    found: Sequence[Sequence[float]],
    *,
    tolerance: tuple[float, float],
) -> dict[str, Any]:
    """How far what the engine found is from what the trainer recorded."""
    differences = [
        abs(one - other)
        for prompt, values in zip(prompts, found, strict=True)
        for one, other in zip(prompt["logprobs"], values, strict=True)
    ]
    largest, mean = max(differences), sum(differences) / len(differences)
    passed = largest <= tolerance[0] and mean <= tolerance[1]  # false for what is no number
    reason = ""
    if not passed:
        reason = (
            f"log-probabilities differ by up to {largest:.4g} and {mean:.4g} in the mean; "
            f"{tolerance[0]:g} and {tolerance[1]:g} are allowed"
        )
    return {
        "passed": passed,
        "max_abs_logprob_diff": round(largest, 6),
        "mean_abs_logprob_diff": round(mean, 6),
        "reason": reason,
    }


def _log_probabilities(
    spec: ParitySpec, way: str, prompts: Sequence[Mapping[str, Any]]
) -> list[list[float]]:
    """Of each prompt's last tokens, by the engine's own forward pass.

    Raises CannotServe or ApiError where the engine refuses, NotImplementedError for no such way.
    """
    longest = max(len(prompt["tokens"]) for prompt in prompts)
    serve = ServeSpec(
        name="parity",
        engine="transformers",
        model_path=spec.base if spec.is_adapter else spec.result,
        served_model_name="parity",
        port=1,  # it opens none
        token="none",  # noqa: S106 - and asks nobody
        device=spec.device,
        dtype=spec.dtype,
        threads=spec.threads,
        max_context_tokens=longest + 1,
        max_concurrency=AT_ONCE,
    )
    from engines.builtin import engine
    from engines.builtin.blocks import blocks_for

    adapter: Adapter | None = None
    if spec.is_adapter and way == "merged":
        runner = engine.merged_runner(serve, Path(spec.result))
    else:
        loaded = engine.load(serve, publish=lambda news: None)
        runner = loaded.runner
        adapter = loaded.read_adapter(Path(spec.result)) if spec.is_adapter else None
    blocks = blocks_for(longest + 1)
    found: list[list[float]] = []
    for start in range(0, len(prompts), AT_ONCE):
        found += _read(runner, prompts[start : start + AT_ONCE], adapter=adapter, blocks=blocks)
    return found


def _read(
    runner: "StepRunner",
    prompts: Sequence[Mapping[str, Any]],
    *,
    adapter: "Adapter | None",
    blocks: int,
) -> list[list[float]]:
    """What each token of a prompt's end was given before it was read, one step after another."""
    from engines.builtin.runner import Work

    found: list[list[float]] = [[] for _ in prompts]
    first = [len(prompt["tokens"]) - len(prompt["logprobs"]) for prompt in prompts]
    for slot, prompt in enumerate(prompts):
        runner.place(slot, range(slot * blocks, (slot + 1) * blocks), first=0)
        work = Work(slot, 0, prompt["tokens"][: first[slot]], wants_logits=True, adapter=adapter)
        _note(found, [slot], prompts, first, runner.run([work]))
    while open_slots := [
        slot for slot, prompt in enumerate(prompts) if len(found[slot]) < len(prompt["logprobs"])
    ]:
        works = []
        for slot in open_slots:
            at = first[slot] + len(found[slot]) - 1
            token = prompts[slot]["tokens"][at]
            works.append(Work(slot, at, [token], wants_logits=True, adapter=adapter))
        _note(found, open_slots, prompts, first, runner.run(works))
    return found


def _note(
    found: list[list[float]],
    slots: Sequence[int],
    prompts: Sequence[Mapping[str, Any]],
    first: Sequence[int],
    logits: Any,
) -> None:
    told = logits.float().log_softmax(dim=-1)
    for row, slot in enumerate(slots):
        token = prompts[slot]["tokens"][first[slot] + len(found[slot])]
        found[slot].append(float(told[row, token]))


def _hashes(folder: str) -> dict[str, str]:
    """Of the template and the tokenizer that the engine serves that folder with."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return {
        "template_sha256": _sha256(str(tokenizer.chat_template)),
        "tokenizer_sha256": _sha256(tokenizer.backend_tokenizer.to_str()),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
