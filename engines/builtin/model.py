"""The forward pass of a dense Qwen2 or Qwen3 decoder over a cache of blocks.

All tokens of a step, of all sequences, lie in one flat row of `tokens`: the projections see one
matrix, and only attention looks at whose tokens they are. Rounding follows transformers' modules,
so that greedy answers agree with theirs.
"""

from dataclasses import dataclass

import torch

from engines.builtin.attention import Chunk, Singles
from engines.builtin.cache import BlockCache
from engines.builtin.shape import DecoderShape
from engines.builtin.weights import Layer, Weights


@dataclass(frozen=True)
class StepTokens:
    """All tokens of one step: first single tokens (one a sequence), then chunks."""

    tokens: torch.Tensor  # [n]
    positions: torch.Tensor  # [n]
    cache_rows: torch.Tensor  # [n * kv_heads], where their keys and values go
    singles: Singles | None  # the sequences of the single tokens that lead
    chunks: list[Chunk]
    outputs: torch.Tensor  # flat indices whose logits are wanted


class Decoder:
    """Weights and their forward pass. Not safe to call from two threads at once."""

    def __init__(self, shape: DecoderShape, weights: Weights, *, context: int) -> None:
        self.shape = shape
        self.weights = weights
        self.device = weights.final_norm.device
        self.dtype = weights.final_norm.dtype
        self._cos, self._sin = rotations(shape, context)
        self._cos = self._cos.to(device=self.device, dtype=self.dtype)
        self._sin = self._sin.to(device=self.device, dtype=self.dtype)

    def logits(self, step: StepTokens, cache: BlockCache) -> torch.Tensor:
        """Runs one step, filling the cache; float32 [outputs, vocabulary]."""
        cos = self._cos[step.positions][:, None]
        sin = self._sin[step.positions][:, None]
        hidden = self.weights.embedding(step.tokens)
        for index, layer in enumerate(self.weights.layers):
            attended = self._attention(index, layer, hidden, cos, sin, step, cache)
            hidden = hidden + layer.output(attended)
            hidden = hidden + layer.feed_forward(self._norm(hidden, layer.middle_norm))
        last = self._norm(hidden[step.outputs], self.weights.final_norm)
        return self.weights.head(last).float()

    def _attention(
        self,
        index: int,
        layer: Layer,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        step: StepTokens,
        cache: BlockCache,
    ) -> torch.Tensor:
        shape = self.shape
        qkv = layer.qkv(self._norm(hidden, layer.input_norm))
        heads = qkv.view(len(hidden), -1, shape.head_size)
        turning = heads[:, : shape.heads + shape.kv_heads]  # queries and keys together
        if layer.qk_norm is not None:
            turning = self._norm(turning, layer.qk_norm)
        turned = turning * cos + turning.roll(shape.head_size // 2, -1) * sin
        queries, keys = turned[:, : shape.heads], turned[:, shape.heads :]
        values = heads[:, shape.heads + shape.kv_heads :]
        cache.write(index, step.cache_rows, keys, values)
        stored = cache.keys[index], cache.values[index]
        parts = []
        if step.singles:
            parts.append(step.singles.attend(queries[: len(step.singles)], *stored))
        parts += [chunk.attend(queries, keys, values, *stored) for chunk in step.chunks]
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        return attended.reshape(len(hidden), -1)

    def _norm(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Root-mean-square norm in float32; the scale is applied after rounding, as in training."""
        wide = values.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.shape.norm_epsilon)
        return weight * (wide * scale).to(values.dtype)


def rotations(shape: DecoderShape, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of every position, [context, head_size] each.

    The first half of sine is negated: turning a vector is then one product with cosine plus one
    product of its rolled self with sine.
    """
    positions = torch.arange(context, dtype=torch.float32)
    angles = positions[:, None] * shape.rope_frequencies
    cos, sin = angles.cos() * shape.rope_scale, angles.sin() * shape.rope_scale
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
