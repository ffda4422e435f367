"""LoRA in its flavours, by PEFT: fresh adapters, adapters to continue from, and bases in 4 bits.

lora     Hu et al. 2021: scaled by alpha / rank
rslora   Kalajdzievski 2023: by alpha / sqrt(rank), so that high ranks learn as fast as low ones
dora     Liu et al. 2024: the weight's magnitude is trained apart from its direction
qlora    Dettmers et al. 2023: any of the first two over a base in NF4, where the device can
"""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import torch

from trainer.errors import FailureReason, SpecError, TrainingFailure
from trainer.spec import TrainSpec

logger = logging.getLogger(__name__)

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"})
MLP = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj"})


def base_options(spec: TrainSpec) -> dict[str, Any]:
    """What to load the base with beside its dtype. Raises SpecError where 4 bits cannot be had."""
    if spec.tuning != "qlora":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SpecError(
            "tuning",
            "qlora needs bitsandbytes, which this node does not have",
            remedy='install bitsandbytes on the node, or give tuning "lora"',
        )
    if not torch.cuda.is_available():
        raise SpecError(
            "tuning",
            "qlora needs a CUDA device, and torch sees none",
            remedy='train on an NVIDIA accelerator, or give tuning "lora"',
        )
    from transformers import BitsAndBytesConfig

    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, spec.dtype),
    )
    return {"quantization_config": quantized, "device_map": {"": spec.device}}


def put_on(model: Any, spec: TrainSpec) -> Any:
    """The model with trainable adapters: those of `init_path`, or fresh ones by the seed.

    An adapter that is continued keeps its own rank, scale and layers.
    """
    import peft  # half a second that full tuning does without

    given = spec.hyperparameters
    torch.manual_seed(given.seed)
    # The optimizer keeps float32 masters, so the adapters compute in the base's dtype.
    if spec.init_path is not None:
        _check_adapter(Path(spec.init_path))
        try:
            return peft.PeftModel.from_pretrained(
                model,
                spec.init_path,
                is_trainable=True,
                autocast_adapter_dtype=False,
                local_files_only=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise SpecError(
                "init_path",
                f"does not fit the base: {error}",
                remedy="give an adapter of this very base",
            ) from error
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=given.lora_rank,
        lora_alpha=given.lora_alpha,
        lora_dropout=given.lora_dropout,
        use_rslora=given.lora_variant == "rslora",
        use_dora=given.lora_variant == "dora",
        target_modules=target_names(model, given.lora_targets),
    )
    return peft.get_peft_model(model, config, autocast_adapter_dtype=False)


def target_names(model: Any, wanted: str) -> list[str]:
    """The last names of the layers that `lora_targets` asks for. Raises SpecError."""
    present = linear_names(model)
    groups = {"all": frozenset(present), "attention": ATTENTION, "mlp": MLP}
    names = groups.get(wanted) or frozenset(name.strip() for name in wanted.split(","))
    found = sorted(names & set(present))
    unknown = sorted(names - set(present)) if wanted not in groups else []
    if unknown or not found:
        raise SpecError(
            "hyperparameters.lora_targets",
            f"the base has no layers {', '.join(unknown) or wanted}",
            remedy=f'give "all", or some of {",".join(present)}',
        )
    return found


def linear_names(model: Any) -> list[str]:
    """Last names of all linear layers but the head: what any server of adapters understands."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, layer in model.named_modules()
            if isinstance(layer, torch.nn.Linear) and layer is not head
        }
    )


def _check_adapter(folder: Path) -> None:
    """Refuse pickled weights, and what is no LoRA, before any of it is loaded."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise _refused(f"{folder} has no adapter_config.json that can be read") from error
    if kind != "LORA":
        raise _refused(f"{folder} is an adapter of type {kind}, not LORA")
    if not (folder / "adapter_model.safetensors").is_file():
        raise _refused(f"{folder} has no adapter_model.safetensors")


def _refused(message: str) -> TrainingFailure:
    return TrainingFailure(
        FailureReason.UNSUPPORTED_MODEL, message, remedy="give a LoRA adapter as PEFT saves it"
    )
