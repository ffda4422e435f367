"""What base and adapter, apart and in memory as PEFT runs them, make of some prompts: kept beside
the merged weights, so that these can be compared with it once they are read back.

The file is `trainer.parity`'s, with the trainer's own numbers beside (`trained`, `trained_numbers`)
where the adapter was trained here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.merge.sentences import SENTENCES
from trainer.merge.tensors import read_shard
from trainer.parity import LONGEST_TOKENS, SCORED_TOKENS, template_sha256, tokenizer_sha256, write
from trainer.parity_file import FILE

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def write_reference(base: Path, adapter: Path, into: Path) -> None:
    """Raises OSError, ValueError, KeyError, RuntimeError where the two cannot be run."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(into, local_files_only=True)
    dtype = _dtype(base)
    trained = _trained(adapter)
    prompts = [prompt["tokens"] for prompt in trained.get("prompts", ())] or _tokens(tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    model = peft.PeftModel.from_pretrained(plain, str(adapter), local_files_only=True).eval()
    rows: list[dict[str, Any]] = [
        {"tokens": tokens, "logprobs": _log_probabilities(model, tokens)} for tokens in prompts
    ]
    for row, own in zip(rows, trained.get("prompts", ()), strict=False):
        row["trained"] = own["logprobs"]
    record = {
        "dtype": dtype,
        "numbers": dtype,
        "device": "cpu",
        "template_sha256": trained.get("template_sha256") or template_sha256(tokenizer),
        "tokenizer_sha256": trained.get("tokenizer_sha256") or tokenizer_sha256(tokenizer),
        "prompts": rows,
    }
    if trained:
        record["trained_numbers"] = trained.get("numbers") or trained["dtype"]
    write(into, record)


def _dtype(base: Path) -> str:
    """The number format that most of the base's weights have."""
    sizes: dict[str, int] = {}
    for path in base.glob("*.safetensors"):
        for tensor in read_shard(path).tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    return DTYPES[max(sizes, key=lambda name: sizes[name])]


def _trained(adapter: Path) -> dict[str, Any]:
    """What the trainer has left of the adapter, if it was trained here."""
    path = adapter / FILE
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) and found.get("prompts") else {}


def _tokens(tokenizer: Any) -> list[list[int]]:
    given = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in SENTENCES]
    return [tokens[:LONGEST_TOKENS] for tokens in given if len(tokens) > 1]


def _log_probabilities(model: Any, tokens: Sequence[int]) -> list[float]:
    """Of the last tokens, as many as the trainer scores."""
    first = max(1, len(tokens) - SCORED_TOKENS)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    told = logits[first - 1 : -1].float().log_softmax(dim=-1)
    wanted = torch.tensor(tokens[first:])[:, None]
    return [round(value, 6) for value in told.gather(1, wanted)[:, 0].tolist()]
