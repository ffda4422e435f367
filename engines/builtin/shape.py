"""Which models the built-in engine runs, and the numbers of one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engines import architectures
from engines.architectures import Way
from engines.process import CannotServe

STATIC_ROPES = ("default", "linear", "yarn", "llama3")  # angles that depend on the position alone


@dataclass(frozen=True, kw_only=True)
class ExpertsShape:
    """The layers of a mixture of experts; the other layers of the decoder are dense."""

    layers: frozenset[int]
    count: int
    chosen: int  # for each token
    intermediate: int  # of one expert
    normalized: bool  # whether the shares of the chosen sum to one


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """A Qwen decoder: what its weights and its forward pass need to know."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    max_positions: int
    norm_epsilon: float
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    qk_norm: bool
    rope_frequencies: torch.Tensor  # [head_size / 2], radians a position
    rope_scale: float  # of cos and sin; 1 but for yarn
    stored_dtype: torch.dtype
    eos_tokens: frozenset[int]
    experts: ExpertsShape | None = None  # None: every layer is dense
    fp8_block: tuple[int, int] | None = (
        None  # of weights stored as 8-bit floats; None: there are none
    )

    @property
    def kv_values_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_size


def read_config(folder: str) -> Any:
    """config.json as transformers reads it. Raises CannotServe for what this engine cannot run."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CannotServe("unreadable_config", f"{folder}: {error}") from None
    quantization = getattr(config, "quantization_config", None) or {}
    refusal = architectures.refusal(
        architectures.BUILTIN,
        model_type=config.model_type,
        architecture=next(iter(config.architectures or ()), ""),
        quantization=str(quantization.get("quant_method", "quantized")) if quantization else "",
    )
    if refusal is not None:
        raise CannotServe(refusal.code, f"{refusal.message} {refusal.remedy}")
    return config


def has_own_forward(config: Any) -> bool:
    """Whether `Decoder` runs this model; else transformers' modules do."""
    if architectures.ARCHITECTURES[config.model_type].way is not Way.OWN:
        return False
    kinds = getattr(config, "layer_types", None)
    windowed = "sliding_attention" in kinds if kinds else config.sliding_window is not None
    return config.hidden_act == "silu" and not windowed


def read_shape(config: Any) -> DecoderShape:
    """The numbers of a config that `has_own_forward`. Raises CannotServe for its rotary kind."""
    family = config.model_type
    heads: int = config.num_attention_heads
    frequencies, scale = _rope(config)
    return DecoderShape(
        family=family,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        max_positions=config.max_position_embeddings,
        norm_epsilon=config.rms_norm_eps,
        tied_embeddings=bool(config.tie_word_embeddings),
        qkv_bias=family == "qwen2" or bool(config.attention_bias),
        output_bias=family != "qwen2" and bool(config.attention_bias),
        qk_norm=family != "qwen2",
        rope_frequencies=frequencies,
        rope_scale=scale,
        stored_dtype=stored_dtype(config),
        eos_tokens=token_set(config.eos_token_id),
        experts=_experts(config) if family == "qwen3_moe" else None,
        fp8_block=fp8_block(config),
    )


def fp8_block(config: Any) -> tuple[int, int] | None:
    """Rows and columns that share a scale; None where weights are not quantized.

    Raises CannotServe for 8-bit floats of another kind.
    """
    quantization = getattr(config, "quantization_config", None)
    if not quantization:
        return None
    block = quantization.get("weight_block_size")
    if not isinstance(block, list | tuple) or len(block) != 2 or min(block) < 1:
        raise CannotServe(
            "unsupported_quantization",
            f"8-bit floats are read with a scale for each block, and weight_block_size is {block!r};"
            " deploy the original weights",
        )
    return int(block[0]), int(block[1])


def token_set(value: Any) -> frozenset[int]:
    """Token ids as configurations write them: none, one, or a list."""
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, list | tuple) else frozenset([value])


def serving_dtype(name: str, *, stored: torch.dtype, device: str) -> torch.dtype:
    """The dtype to compute in. "auto" is the stored one, but CPUs have no arithmetic for float16."""
    if name == "int4":
        return torch.bfloat16
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if stored is torch.float16 and torch.device(device).type == "cpu":
        return torch.float32
    return stored


def weight_bits(name: str) -> int:
    """Of each value in the layers' projections, as they are kept for serving."""
    return 4 if name == "int4" else 16


def refused(what: str) -> CannotServe:
    return CannotServe("unsupported_architecture", f"this engine does not run {what}")


def stored_dtype(config: Any) -> torch.dtype:
    dtype = config.dtype
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype.removeprefix("torch."), None)
    if dtype in (torch.bfloat16, torch.float16, torch.float32):
        return dtype
    return torch.float32


def _experts(config: Any) -> ExpertsShape:
    dense, stride = set(config.mlp_only_layers), config.decoder_sparse_step
    every = [index for index in range(config.num_hidden_layers) if (index + 1) % stride == 0]
    return ExpertsShape(
        layers=frozenset(every) - dense if config.num_experts else frozenset(),
        count=config.num_experts,
        chosen=config.num_experts_per_tok,
        intermediate=config.moe_intermediate_size,
        normalized=bool(config.norm_topk_prob),
    )


def _rope(config: Any) -> tuple[torch.Tensor, float]:
    parameters: Mapping[str, Any] = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind not in STATIC_ROPES:
        raise refused(f"rotary embedding {kind!r}; it runs {list(STATIC_ROPES)}")
    if kind != "default":
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
        return frequencies.float(), float(scale)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    powers = torch.arange(0, size, 2, dtype=torch.float32) / size
    return 1.0 / (parameters["rope_theta"] ** powers), 1.0
