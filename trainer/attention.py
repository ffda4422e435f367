"""Causal attention for short rows on CPU, as plain matrix products.

PyTorch's fused CPU attention is made for long rows: its backward in bfloat16 takes several times
as long as the products themselves up to a few hundred tokens. One core with avx512_bf16, 2,048
tokens, 4 query and 2 key heads of 64, forward + backward in ms, fused against products:
rows of 64 33 / 8, 128 39 / 11, 256 30 / 16, 512 65 / 47, 1,024 75 / 84. In float32 the fused
one is level or ahead, so the products serve bfloat16 alone.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "trainer_causal"
SHORT_TOKENS = 512


def register() -> str:
    """Make the implementation known to transformers; returns the name to load a model with."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """[rows, heads, tokens, width] -> [rows, tokens, heads, width]; transformers' own contract."""
    tokens = query.shape[2]
    short = tokens == key.shape[2] and tokens <= SHORT_TOKENS
    on_cpu = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not (short and on_cpu and attention_mask is None and dropout == 0.0):
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return attended
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    return short_causal_attention(query, key, value, scale=scale), None


def short_causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Query heads that share a key head go through one product as further rows of it."""
    rows, heads, tokens, width = query.shape
    key_heads = key.shape[1]
    groups = rows * key_heads
    stacked = query.reshape(groups, heads // key_heads * tokens, width)
    scores = torch.bmm(stacked, key.reshape(groups, tokens, width).transpose(1, 2))
    scores = scores.view(groups, heads // key_heads, tokens, tokens)
    later = torch.full((tokens, tokens), float("-inf"), dtype=query.dtype, device=query.device)
    shares = torch.softmax(scores * scale + later.triu(1), dim=-1)  # float32 inside
    mixed = torch.bmm(
        shares.view(groups, heads // key_heads * tokens, tokens),
        value.reshape(groups, tokens, width),
    )
    return mixed.view(rows, heads, tokens, width).transpose(1, 2).contiguous()
