"""A model folder as transformers' own modules: the text decoder and its head, from safetensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    DynamicCache,
    FineGrainedFP8Config,
)

from engines.builtin.memory import is_out_of_memory
from engines.builtin.modules_cache import PROBES
from engines.builtin.shape import STATIC_ROPES, fp8_block, refused, stored_dtype, token_set
from engines.builtin.weights import weight_files
from engines.process import CannotServe

# Classes with eyes that have no sibling for text alone: loaded whole, then only the decoder is kept.
SEEING = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


@dataclass(frozen=True, kw_only=True)
class ModulesShape:
    """What the engine needs to know of a model that it does not compute itself."""

    family: str
    vocabulary: int
    max_positions: int
    stored_dtype: torch.dtype
    eos_tokens: frozenset[int]


@dataclass(frozen=True)
class Modules:
    """The decoder (ids to hidden states) and the head (hidden states to logits)."""

    shape: ModulesShape
    backbone: Any
    head: Any
    config: Any  # of the text part

    @property
    def device(self) -> torch.device:
        device: torch.device = self.head.weight.device
        return device

    @property
    def total_bytes(self) -> int:
        held = {
            tensor.data_ptr(): tensor.nbytes
            for module in (self.backbone, self.head)
            for tensor in (*module.parameters(), *module.buffers())
        }
        return sum(held.values())


def read_modules_shape(config: Any) -> ModulesShape:
    """Checks what every module's cache relies on. Raises CannotServe, with the reason."""
    text = config.get_text_config(decoder=True)
    _check_rope(text)
    return ModulesShape(
        family=config.model_type,
        vocabulary=text.vocab_size,
        max_positions=text.max_position_embeddings,
        stored_dtype=stored_dtype(text if text.dtype is not None else config),
        eos_tokens=token_set(text.eos_token_id or config.eos_token_id),
    )


def load_modules(
    folder: str, config: Any, shape: ModulesShape, *, device: str, dtype: torch.dtype
) -> Modules:
    """Raises CannotServe if a file or a tensor is missing; nothing is made up for it."""
    quantized = _dequantizing(config)
    files = weight_files(Path(folder))  # safetensors, all inside the folder
    if (Path(folder) / "adapter_config.json").exists():
        raise CannotServe("unreadable_weights", f"{folder} holds an adapter; serve its base")
    family = AutoModelForImageTextToText if config.model_type in SEEING else AutoModelForCausalLM
    transformers.utils.logging.disable_progress_bar()  # its lines would fill the engine's log
    try:
        _check_scales([Path(folder) / name for name in files])
        model, report = family.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
            **quantized,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise CannotServe("unreadable_weights", f"{folder}: {error}") from None
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise CannotServe("unreadable_weights", f"tensors are missing: {names}")
    head = model.get_output_embeddings()
    backbone = model.get_decoder()
    for part in (backbone, head):
        part.requires_grad_(False).eval().to(device)
    text = config.get_text_config(decoder=True)
    return Modules(shape=shape, backbone=backbone, head=head, config=text)


def _check_scales(files: Sequence[Path]) -> None:
    """transformers would take an 8-bit float whose scale is missing as it stands."""
    dtypes: dict[str, str] = {}
    for path in files:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                dtypes[str(name)] = str(file.get_slice(name).get_dtype())
    for name, dtype in dtypes.items():
        if dtype.startswith("F8") and f"{name}_scale_inv" not in dtypes:
            raise CannotServe("unreadable_weights", f"tensor {name} has no scales")


def _dequantizing(config: Any) -> dict[str, Any]:
    block = fp8_block(config)
    if block is None:
        return {}
    return {
        "quantization_config": FineGrainedFP8Config(
            weight_block_size=block,
            modules_to_not_convert=config.quantization_config.get("modules_to_not_convert"),
            dequantize=True,
        )
    }


def probe(modules: Modules) -> list[DynamicCache]:
    """Caches that have read PROBES tokens: they show what each layer keeps, and of which size.

    Raises CannotServe where the modules fail on them: better now than on the first request.
    """
    try:
        return [_read(modules, count) for count in PROBES]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as e:
        if is_out_of_memory(e):
            raise
        raise refused(
            f"this {modules.shape.family}: {type(e).__name__} on a first text: {e}"
        ) from e


def _read(modules: Modules, count: int) -> DynamicCache:
    cache = DynamicCache(config=modules.config)
    tokens = torch.zeros(1, count, dtype=torch.long, device=modules.device)
    with torch.inference_mode():
        modules.backbone(input_ids=tokens, past_key_values=cache, use_cache=True)
    return cache


def _check_rope(text: Any) -> None:
    """Angles must depend on the position alone: others change with the longest of the batch."""
    parameters: Mapping[str, Any] = text.rope_parameters or {}
    nested = [each for each in parameters.values() if isinstance(each, Mapping)]
    for each in nested or [parameters]:
        kind = each.get("rope_type", "default")
        if kind not in STATIC_ROPES:
            raise refused(f"rotary embedding {kind!r}; it runs {list(STATIC_ROPES)}")
