"""Random adapters as PEFT saves them, and bases in several files."""

from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM

from trainer.tests.make import make_tokenizer

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_adapter(folder: Path, base: Path, **config: Any) -> Any:
    """A random adapter as PEFT saves it; answers with PEFT's model, not merged."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base)
    given = {"r": 4, "lora_alpha": 8, "target_modules": LAYERS, "task_type": "CAUSAL_LM"} | config
    adapted = peft.get_peft_model(model, peft.LoraConfig(**given), autocast_adapter_dtype=False)
    for name, weight in adapted.named_parameters():
        if weight.requires_grad:
            spread = 0.1 * torch.randn_like(weight)
            weight.data = (
                weight.data * (1 + spread) if "magnitude" in name else weight.data + spread
            )
    adapted.save_pretrained(folder)
    return adapted.eval()


def sharded(base: Path, folder: Path, **options: Any) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    model.save_pretrained(folder, max_shard_size="40KB")
    make_tokenizer().save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder
