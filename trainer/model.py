"""The base model: loaded without running anything it brings, prepared, and saved again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from trainer import adapters, decoder
from trainer.batches import Batch
from trainer.decoder import Decoder
from trainer.errors import FailureReason, TrainingFailure
from trainer.head import label_loss
from trainer.likelihood import label_log_probabilities
from trainer.spec import TrainSpec

transformers_logging.disable_progress_bar()  # a log file is no terminal

_PARITY_TOKENS = 64
# Relative; bfloat16 rounds the same logits by up to 0.4 %, a wrong head is off by far more.
_PARITY_TOLERANCE = 0.02


@dataclass(frozen=True)
class Loaded:
    """A model ready to train: `model` is transformers' own, wrapped by PEFT for adapters."""

    model: Any
    body: torch.nn.Module
    head: torch.nn.Linear
    trained: list[tuple[str, torch.nn.Parameter]]
    decoder: Decoder | None = None  # our forward pass, where there is one for the architecture

    def scored(self, batch: Batch, *, divisor: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed cross entropy at the label positions over `divisor`; and how many labels are the
        likeliest tokens there."""
        return label_loss(
            hidden=self.hidden(batch),
            weight=self.head.weight,
            bias=self.head.bias,
            targets=batch.targets,
            divisor=divisor,
        )

    def loss(self, batch: Batch, *, divisor: float) -> torch.Tensor:
        """The first of `scored`."""
        return self.scored(batch, divisor=divisor)[0]

    def log_probabilities(self, batch: Batch) -> torch.Tensor:
        """[labels], float32: of each label, example after example."""
        return label_log_probabilities(
            hidden=self.hidden(batch),
            weight=self.head.weight,
            bias=self.head.bias,
            targets=batch.targets,
        )

    def hidden(self, batch: Batch) -> torch.Tensor:
        """[labels, width]: the body's last states where a label is predicted."""
        if self.decoder is not None:
            return self.decoder.hidden(batch)
        ids, positions = batch.rows()
        hidden: torch.Tensor = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1).index_select(0, positions)


def load_tokenizer(spec: TrainSpec) -> Any:
    """A fast tokenizer with a chat template, from the base's folder alone."""
    check_folder(Path(spec.base_path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.base_path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _unsupported(f"the tokenizer cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise _unsupported("the tokenizer has no tokenizer.json")
    if not tokenizer.chat_template:
        raise _unsupported("the tokenizer has no chat template")
    return tokenizer


def load_model(spec: TrainSpec) -> Loaded:
    """Load the base and, unless all of it is tuned, put adapters on it (`trainer.adapters`)."""
    check_folder(Path(spec.base_path))
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[spec.dtype]
    try:
        model = AutoModelForCausalLM.from_pretrained(
            spec.base_path,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **adapters.base_options(spec),
        )
    except (OSError, ValueError, KeyError) as error:
        raise _unsupported(f"the model cannot be loaded: {error}") from error
    if spec.tuning != "qlora":  # that one is loaded to where it stays
        model.to(spec.device)
    body, head = model.base_model, model.get_output_embeddings()
    if body is model or not isinstance(head, torch.nn.Linear):
        raise _unsupported(f"{type(model).__name__} has no plain output head")
    if spec.tuning != "full":
        model = adapters.put_on(model, spec)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    model.train()
    ours = Decoder(body) if decoder.supports(body) else None
    return Loaded(model, body, head, trained, ours)


def check_folder(base: Path) -> None:
    """Refuse pickled weights, foreign code and adapters before any of it is touched."""
    config = base / "config.json"
    if not config.is_file():
        adapter = (base / "adapter_config.json").is_file()
        raise _unsupported(
            f"{base} is an adapter; merge it first" if adapter else f"{base} has no config.json"
        )
    if not any(base.glob("*.safetensors")):
        raise _unsupported(f"{base} has no safetensors weights")
    if "auto_map" in json.loads(config.read_text(encoding="utf-8")):
        raise _unsupported(f"{config} asks to run code of its own (auto_map)")


def check_parity(loaded: Loaded, ids: torch.Tensor) -> None:
    """Raise unless our loss on some tokens is the one that the model's own logits give.

    Guards against architectures that scale or cap their logits, or attend in ways of their own.
    """
    ids = ids[:_PARITY_TOKENS].to(loaded.head.weight.device)
    count = len(ids) - 1
    loaded.model.eval()
    with torch.no_grad():
        logits = loaded.model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        theirs = float(torch.nn.functional.cross_entropy(logits, ids[1:]))
        places = torch.arange(count, device=ids.device)
        batch = Batch(ids, (len(ids),), places, ids[1:], len(ids))
        ours = float(loaded.loss(batch, divisor=count))
    loaded.model.train()
    if not abs(ours - theirs) <= _PARITY_TOLERANCE * max(1.0, abs(theirs)):
        raise _unsupported(f"our loss ({ours:.4f}) is not the model's own ({theirs:.4f})")


def can_share(loaded: Loaded) -> bool:
    """Whether a shared beginning may be laid out once: where the forward pass is ours."""
    return loaded.decoder is not None


def save_result(loaded: Loaded, tokenizer: Any, folder: Path) -> None:
    """The whole model, or the adapter as PEFT writes it; tokenizer and template in both cases."""
    loaded.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank model card


def _unsupported(message: str) -> TrainingFailure:
    return TrainingFailure(
        FailureReason.UNSUPPORTED_MODEL,
        message,
        remedy="give a transformers causal model with safetensors, tokenizer.json and a template",
    )
