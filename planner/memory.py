"""How much memory a model takes: to serve it, and to train it. Estimates, rounded up to bytes.

Sources are named with each formula. Measured memory always comes before these.
"""

import math
from dataclasses import dataclass

from planner.shapes import DTYPE_BYTES, ModelShape

MIB = 2**20
GIB = 2**30

# One process that has imported torch 2.13 and transformers 5 for CPU holds 0.33 GiB before any
# weights (measured as peak resident memory); threads' buffers and requests come on top.
PROCESS_BYTES = GIB // 2
# The trainer computes the vocabulary's logits in float32 chunks of 64 MiB, with their gradients.
HEAD_BYTES = 128 * MIB


@dataclass(frozen=True, kw_only=True)
class ServingMemory:
    """What one replica takes, by part."""

    weights_bytes: int
    cache_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.overhead_bytes


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """What one training process takes, by part."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.overhead_bytes
        )


def serving(
    shape: ModelShape,
    *,
    context_tokens: int,
    concurrency: int,
    dtype: str | None = None,
    cache_dtype: str = "bfloat16",
    overhead_bytes: int = PROCESS_BYTES,
) -> ServingMemory:
    """Memory to serve `concurrency` sequences of `context_tokens` each, all at once.

    Weights, then for each sequence its KV cache and the state of its linear layers. Engines that
    page their cache and seldom see full contexts get by with less.
    """
    each = context_tokens * kv_bytes_per_token(shape, dtype=cache_dtype) + linear_state_bytes(shape)
    return ServingMemory(
        weights_bytes=weight_bytes(shape, dtype=dtype),
        cache_bytes=concurrency * each,
        overhead_bytes=overhead_bytes,
    )


def weight_bytes(shape: ModelShape, *, dtype: str | None = None) -> int:
    """Parameters times their width; scales of quantized weights are not counted."""
    return math.ceil(shape.parameters * DTYPE_BYTES[dtype or shape.dtype])


def kv_bytes_per_token(shape: ModelShape, *, dtype: str = "bfloat16") -> int:
    """Keys and values, for every KV head of every layer with full attention: 2 x layers x heads x
    head size x bytes (Pope and others 2022, section 3.3, with grouped heads)."""
    values = 2 * shape.full_attention_layers * shape.key_value_heads * shape.head_dim
    return math.ceil(values * DTYPE_BYTES[dtype])


def linear_state_bytes(shape: ModelShape) -> int:
    """What a sequence keeps in its linear-attention layers, whatever its length, in float32.

    Gated DeltaNet (Yang and others 2024): a matrix of key size x value size for each value head,
    and the last kernel - 1 inputs of the convolution over queries, keys and values.
    """
    if not shape.linear_layers:
        return 0
    matrix = shape.linear_value_heads * shape.linear_key_head_dim * shape.linear_value_head_dim
    channels = (
        shape.linear_value_heads * shape.linear_value_head_dim
        + 2 * shape.linear_key_heads * shape.linear_key_head_dim
    )
    history = max(shape.linear_conv_kernel - 1, 0) * channels
    return shape.linear_layers * (matrix + history) * 4


def lora_parameters(shape: ModelShape, *, rank: int) -> int:
    """Parameters of adapters on all linear layers of a dense decoder: rank x (in + out) for each
    (Hu and others 2021, section 4.1)."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries = shape.attention_heads * shape.head_dim
    keys = shape.key_value_heads * shape.head_dim
    attention = 2 * (hidden + queries) + 2 * (hidden + keys)  # query and output; key and value
    return shape.layers * rank * (attention + 3 * (hidden + inner))  # gate, up, down


def activation_bytes_per_token(shape: ModelShape, *, dtype: str | None = None) -> int:
    """What the backward pass needs of each token, counted from a Qwen3 layer's forward pass.

    In the weights' dtype: inputs and outputs of both norms (4 x hidden), queries before and after
    their norm and turn and the attention's output (3 x), keys twice and values (3 x), and gate, up,
    its activation and their product (4 x). Norms compute in float32 and keep two copies. Scores
    are not counted: attention does not keep them.
    """
    per_value = DTYPE_BYTES[dtype or shape.dtype]
    queries = shape.attention_heads * shape.head_dim
    keys = shape.key_value_heads * shape.head_dim
    kept = 4 * shape.hidden_size + 3 * queries + 3 * keys + 4 * shape.intermediate_size
    normed = 2 * shape.hidden_size + queries + keys
    return math.ceil(shape.layers * (kept * per_value + normed * 2 * 4))
