"""Shapes of models and data sheets of accelerators, as far as planning needs them."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

# Bytes a parameter or a cached value takes, by the names that the registry uses.
DTYPE_BYTES: Mapping[str, Fraction] = {
    "float64": Fraction(8),
    "float32": Fraction(4),
    "bfloat16": Fraction(2),
    "float16": Fraction(2),
    "float8_e4m3": Fraction(1),
    "float8_e5m2": Fraction(1),
    "int8": Fraction(1),
    "uint8": Fraction(1),
    "int4": Fraction(1, 2),
}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder's sizes. `full_attention_layers` hold a KV cache; the others hold a fixed state."""

    parameters: int
    layers: int
    hidden_size: int
    attention_heads: int
    key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocabulary: int
    full_attention_layers: int
    dtype: str = "bfloat16"
    linear_value_heads: int = 0
    linear_key_heads: int = 0
    linear_key_head_dim: int = 0
    linear_value_head_dim: int = 0
    linear_conv_kernel: int = 0

    @property
    def linear_layers(self) -> int:
        return self.layers - self.full_attention_layers

    @classmethod
    def from_facts(
        cls, *, parameter_count: int | None, dtype: str, facts: Mapping[str, Any]
    ) -> Self | None:
        """The shape from what was read of a revision's files; None if they do not say enough.

        `facts` has "layers", "hidden_size", "attention_heads", "key_value_heads", "vocabulary",
        "intermediate_size" and, where it is not hidden_size / attention_heads, "head_dim". Every
        layer counts as full attention unless "full_attention_layers" says otherwise; then the
        "linear_..." names of the fields above say what the other layers keep.
        """
        sizes = ("layers", "hidden_size", "attention_heads", "vocabulary")
        if not parameter_count or any(not facts.get(name) for name in sizes):
            return None
        heads = int(facts["attention_heads"])
        hidden = int(facts["hidden_size"])
        layers = int(facts["layers"])
        return cls(
            parameters=parameter_count,
            layers=layers,
            hidden_size=hidden,
            attention_heads=heads,
            key_value_heads=int(facts.get("key_value_heads") or heads),
            head_dim=int(facts.get("head_dim") or hidden // heads),
            intermediate_size=int(facts.get("intermediate_size") or 4 * hidden),
            vocabulary=int(facts["vocabulary"]),
            full_attention_layers=int(facts.get("full_attention_layers") or layers),
            dtype=dtype if dtype in DTYPE_BYTES else "bfloat16",
            linear_value_heads=int(facts.get("linear_value_heads") or 0),
            linear_key_heads=int(facts.get("linear_key_heads") or 0),
            linear_key_head_dim=int(facts.get("linear_key_head_dim") or 0),
            linear_value_head_dim=int(facts.get("linear_value_head_dim") or 0),
            linear_conv_kernel=int(facts.get("linear_conv_kernel") or 0),
        )


@dataclass(frozen=True, kw_only=True)
class AcceleratorSpec:
    """A data sheet. None: not published, and never guessed."""

    slug: str
    memory_bytes: int | None = None
    bandwidth_bytes_per_second: int | None = None
    bf16_flops: int | None = None
