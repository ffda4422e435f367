"""What the trained model, still in memory, makes of some prompts: kept beside the result, so that
whoever serves the result can see that it is the same model.

    parity.json   {"dtype", "numbers" (of the base while it was trained on), "device",
                   "template_sha256", "tokenizer_sha256", "prompts": [{"tokens": [...], "logprobs": [...]}]}

`logprobs` are natural, and belong to the last tokens of each prompt, as many as there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.batches import make_batch
from trainer.data import Example, TokenSet
from trainer.model import Loaded
from trainer.parity_file import FILE
from trainer.spec import TrainSpec

PROMPTS = 32
SCORED_TOKENS = 16  # of each: mostly the answer's end, which training has moved most
LONGEST_TOKENS = 256


def record(
    loaded: Loaded, tokenizer: Any, sets: Sequence[TokenSet], *, spec: TrainSpec
) -> dict[str, Any]:
    """The record of a model on prompts spread evenly over the first set, and over the next if it
    has too few: always the same ones."""
    loaded.model.eval()
    prompts = []
    with torch.no_grad():
        for example in choose([data.examples for data in sets]):
            batch = make_batch([example]).to(torch.device(spec.device))
            told = loaded.log_probabilities(batch).float().cpu()
            prompts.append(
                {
                    "tokens": example.tokens.tolist(),
                    "logprobs": [round(value, 6) for value in told.tolist()],
                }
            )
    loaded.model.train()
    return {
        "dtype": spec.dtype,
        "numbers": "nf4" if spec.tuning == "qlora" else spec.dtype,
        "device": spec.device,
        "template_sha256": template_sha256(tokenizer),
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "prompts": prompts,
    }


def write(folder: Path, found: dict[str, Any]) -> None:
    (folder / FILE).write_text(json.dumps(found), encoding="utf-8")


def choose(sets: Sequence[Sequence[Example]]) -> list[Example]:
    """At most PROMPTS examples, cut, with their last tokens marked instead of their answers'."""
    chosen: list[Example] = []
    for examples in sets:
        count = min(PROMPTS - len(chosen), len(examples))
        chosen += [examples[place * len(examples) // count] for place in range(count)]
    return [_marked(example) for example in chosen]


def template_sha256(tokenizer: Any) -> str:
    return _sha256(str(tokenizer.chat_template))


def tokenizer_sha256(tokenizer: Any) -> str:
    return _sha256(tokenizer.backend_tokenizer.to_str())


def _marked(example: Example) -> Example:
    end = min(int(np.flatnonzero(example.marks)[-1]) + 1, LONGEST_TOKENS)
    marks = np.zeros(end, dtype=np.bool_)
    marks[max(1, end - SCORED_TOKENS) :] = True
    return Example(example.tokens[:end], marks)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
