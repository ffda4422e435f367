"""Causal attention for short rows on CPU, as plain matrix products; rows may share a beginning.

PyTorch's fused CPU attention is made for long rows: its backward in bfloat16 takes several times
as long as the products themselves up to a few hundred tokens. One core with avx512_bf16, 2,048
tokens, 4 query and 2 key heads of 64, forward + backward in ms, fused against products:
rows of 64 33 / 8, 128 39 / 11, 256 30 / 16, 512 65 / 47, 1,024 75 / 84. In float32 the fused
one is level or ahead, so the products serve bfloat16 alone.

Examples of one dataset often begin with the same system prompt. Causal attention makes the hidden
states of that beginning equal in all of them, so it need be computed once: such a batch is laid
out as one line [shared beginning | row 1 | row 2 | ...], the rows padded to one length, and each
row attends to the shared beginning and to itself. That is exact, gradients included.
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
    """[rows, heads, tokens, width] -> [rows, tokens, heads, width]; transformers' own contract.

    With `shared_tokens` and `rows` in `rest` the layout is that of a shared beginning.
    """
    shared, rows = rest.pop("shared_tokens", 0), rest.pop("rows", 0)
    if shared:
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        return shared_causal_attention(
            query, key, value, shared=shared, rows=rows, scale=scale
        ), None
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
    shares = torch.softmax(scores * scale + _later(tokens, like=query), dim=-1)  # float32 inside
    mixed = torch.bmm(
        shares.view(groups, heads // key_heads * tokens, tokens),
        value.reshape(groups, tokens, width),
    )
    return mixed.view(rows, heads, tokens, width).transpose(1, 2).contiguous()


def shared_causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    shared: int,
    rows: int,
    scale: float,
) -> torch.Tensor:
    """[1, heads, shared + rows * own, width] -> [1, shared + rows * own, heads, width]."""
    _, heads, tokens, width = query.shape
    groups, own = key.shape[1], (tokens - shared) // rows
    per_group = heads // groups
    beginning = short_causal_attention(
        query[:, :, :shared], key[:, :, :shared], value[:, :, :shared], scale=scale
    )
    asked = query[0, :, shared:].reshape(groups, per_group, rows, own, width)
    asked = asked.transpose(1, 2).contiguous()  # [groups, rows, per_group, own, width]
    to_shared = torch.bmm(asked.view(groups, -1, width), key[0, :, :shared].transpose(1, 2))
    to_own = torch.bmm(
        asked.view(groups * rows, -1, width),
        key[0, :, shared:].reshape(groups * rows, own, width).transpose(1, 2),
    ).view(groups, rows, per_group, own, own)
    scores = torch.cat(
        [
            to_shared.view(groups, rows, per_group, own, shared) * scale,
            to_own * scale + _later(own, like=query),
        ],
        dim=-1,
    )
    of_shared, of_own = torch.softmax(scores, dim=-1).split([shared, own], dim=-1)
    mixed = torch.bmm(of_shared.reshape(groups, -1, shared), value[0, :, :shared])
    mixed = mixed.view(groups * rows, -1, width) + torch.bmm(
        of_own.reshape(groups * rows, -1, own),
        value[0, :, shared:].reshape(groups * rows, own, width),
    )
    # [groups, rows, per_group, own, width] -> [rows, own, groups, per_group, width]
    ordered = mixed.view(groups, rows, per_group, own, width).permute(1, 3, 0, 2, 4)
    return torch.cat([beginning, ordered.reshape(1, rows * own, heads, width)], dim=1)


def _later(tokens: int, *, like: torch.Tensor) -> torch.Tensor:
    """-inf where a key comes after its query."""
    full = torch.full((tokens, tokens), float("-inf"), dtype=like.dtype, device=like.device)
    return full.triu(1)
