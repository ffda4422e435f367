"""The forward pass of a dense Qwen2 or Qwen3 decoder over a slot cache.

All tokens of a step, of all sequences, lie in one flat row of `tokens`: the projections see one
matrix, and only attention looks at whose tokens they are. Rounding follows transformers' modules,
so that greedy answers agree with theirs.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)

from engines.builtin.cache import SlotCache
from engines.builtin.shape import DecoderShape
from engines.builtin.weights import Layer, Weights


@dataclass(frozen=True)
class ChunkTokens:
    """Several tokens of one sequence: `count` of them from flat index `first`, after `start`."""

    slot: int
    start: int  # tokens of the sequence already in the cache
    first: int
    count: int
    mask: torch.Tensor | None  # None where the plain causal one is right: start is 0


@dataclass(frozen=True)
class StepTokens:
    """All tokens of one step: first single tokens (one a sequence), then chunks."""

    tokens: torch.Tensor  # [n]
    positions: torch.Tensor  # [n]
    cache_rows: torch.Tensor  # [n * kv_heads], where their keys and values go
    singles: int  # how many single tokens lead
    single_slots: torch.Tensor | None  # their slots; None: they are 0, 1, 2 ... without a gap
    slots: int  # attention over single tokens looks at slots 0 .. slots - 1
    longest: int  # ... and at this many positions of each
    single_mask: torch.Tensor | None  # [slots, 1, 1, longest], added to the scores
    chunks: list[ChunkTokens]
    outputs: torch.Tensor  # flat indices whose logits are wanted


class Decoder:
    """Weights and their forward pass. Not safe to call from two threads at once."""

    def __init__(self, shape: DecoderShape, weights: Weights, *, context: int) -> None:
        self.shape = shape
        self.weights = weights
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self._cos, self._sin = _rotations(shape, context)
        self._cos = self._cos.to(device=self.device, dtype=self.dtype)
        self._sin = self._sin.to(device=self.device, dtype=self.dtype)

    def logits(self, step: StepTokens, cache: SlotCache) -> torch.Tensor:
        """Runs one step, filling the cache; float32 [outputs, vocabulary]."""
        cos = self._cos[step.positions][:, None]
        sin = self._sin[step.positions][:, None]
        hidden = self.weights.embedding[step.tokens]
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
        cache: SlotCache,
    ) -> torch.Tensor:
        shape = self.shape
        qkv = layer.qkv(self._norm(hidden, layer.input_norm))
        heads = qkv.view(len(hidden), -1, shape.head_size)
        turning = heads[:, : shape.heads + shape.kv_heads]  # queries and keys together
        if layer.qk_norm is not None:
            turning = self._norm(turning, layer.qk_norm)
        turned = turning * cos + turning.roll(shape.head_size // 2, -1) * sin
        queries, keys = turned[:, : shape.heads], turned[:, shape.heads :]
        cache.write(index, step.cache_rows, keys, heads[:, shape.heads + shape.kv_heads :])
        parts = []
        if step.singles:
            parts.append(_attend_singles(index, queries[: step.singles], step, cache))
        parts += [_attend_chunk(index, queries, chunk, cache) for chunk in step.chunks]
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        return attended.reshape(len(hidden), -1)

    def _norm(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Root-mean-square norm in float32; the scale is applied after rounding, as in training."""
        wide = values.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.shape.norm_epsilon)
        return weight * (wide * scale).to(values.dtype)


def _attend_singles(
    index: int, queries: torch.Tensor, step: StepTokens, cache: SlotCache
) -> torch.Tensor:
    """One query a sequence against its slot: [singles, heads, head_size]."""
    if step.single_slots is not None:  # slots between them are being filled: rows of no meaning
        spread = queries.new_zeros(step.slots, *queries.shape[1:])
        queries = spread.index_copy_(0, step.single_slots, queries)
    keys = cache.keys[index, : step.slots, :, : step.longest]
    values = cache.values[index, : step.slots, :, : step.longest]
    # The queries that share a key head go in as rows of one matrix. On CPUs that is up to five
    # times faster in bfloat16 than leaving the sharing to `enable_gqa`, and never slower.
    rows = queries.reshape(step.slots, keys.shape[1], -1, queries.shape[-1])
    attended = F.scaled_dot_product_attention(rows, keys, values, attn_mask=step.single_mask)
    attended = attended.reshape(queries.shape)
    return attended if step.single_slots is None else attended[step.single_slots]


def _attend_chunk(
    index: int, queries: torch.Tensor, chunk: ChunkTokens, cache: SlotCache
) -> torch.Tensor:
    """Queries of one sequence against all of it up to themselves: [count, heads, head_size]."""
    end = chunk.start + chunk.count
    own = queries[chunk.first : chunk.first + chunk.count]
    attended = F.scaled_dot_product_attention(
        own.transpose(0, 1)[None],
        cache.keys[index, chunk.slot : chunk.slot + 1, :, :end],
        cache.values[index, chunk.slot : chunk.slot + 1, :, :end],
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _rotations(shape: DecoderShape, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of every position, [context, head_size] each.

    The first half of sine is negated: turning a vector is then one product with cosine plus one
    product of its rolled self with sine.
    """
    positions = torch.arange(context, dtype=torch.float32)
    angles = positions[:, None] * shape.rope_frequencies
    cos, sin = angles.cos() * shape.rope_scale, angles.sin() * shape.rope_scale
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
