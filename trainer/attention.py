"""Causal attention over documents on one line: every document sees itself, none sees another.

A line is [shared beginning | document 1 | document 2 ...]. Documents of one dataset often begin with
the same system prompt, and causal attention makes the hidden states of that beginning equal in
all of them, so it is computed once: it attends to itself, each document to it and to its own past.
That is exact, gradients included, and so is keeping documents apart: there is no mask, each one's
scores are made for itself alone.

On CPUs in bfloat16 this is compiled code (`trainer/kernels/attention.c`), norms and rotation of the
heads in it; elsewhere torch's fused attention, document by document.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional

from trainer.kernels import library

address = library.address


@dataclass(frozen=True)
class Heads:
    """How a layer's joined rows [queries | keys | values] divide, and what is done to the heads."""

    heads: int
    key_heads: int
    size: int
    scale: float
    epsilon: float
    query_norm: torch.Tensor | None  # [size], Qwen3's
    key_norm: torch.Tensor | None


@dataclass(frozen=True)
class Line:
    """Where documents lie on a line of tokens, and each token's rotation."""

    starts: torch.Tensor  # [documents + 1] int64 on the CPU: each one's first token, and the end
    shared: int  # tokens of the shared beginning
    cos: torch.Tensor  # [tokens, size / 2] float32
    sin: torch.Tensor


def attend(joined: torch.Tensor, heads: Heads, line: Line) -> torch.Tensor:
    """[tokens, (heads + 2 key heads) * size] -> [tokens, heads * size]."""
    if library.usable(joined) is not None and heads.size % library.HEAD_SIZES == 0:
        attended: torch.Tensor = _Attend.apply(
            joined, heads.query_norm, heads.key_norm, heads, line
        )
        return attended
    return _attend_plainly(joined, heads, line)


class _Attend(torch.autograd.Function):  # type: ignore[misc] # torch is Any to mypy
    @staticmethod
    def forward(
        ctx: Any,
        joined: torch.Tensor,
        query_norm: torch.Tensor | None,
        key_norm: torch.Tensor | None,
        heads: Heads,
        line: Line,
    ) -> torch.Tensor:
        joined = joined.contiguous()
        parts = _split(joined, heads, line)
        out = joined.new_empty(len(joined), heads.heads * heads.size)
        logs = joined.new_empty(heads.heads, len(joined), dtype=torch.float32)
        failed = library.compiled().attend(
            _line_of(joined, heads, line), *map(address, parts), address(out), address(logs)
        )
        _check(failed)
        # Queries and keys are made again in backward: a third of the memory, a hundredth of the time.
        ctx.save_for_backward(joined, out, logs, query_norm, key_norm)
        ctx.heads, ctx.line = heads, line
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        joined, out, logs, query_norm, key_norm = ctx.saved_tensors
        heads, line = ctx.heads, ctx.line
        parts = _split(joined, heads, line)
        part_slopes = [torch.empty_like(part) for part in parts]
        failed = library.compiled().attend_back(
            _line_of(joined, heads, line),
            *map(address, (*parts, out, logs, slopes[0].contiguous(), *part_slopes)),
        )
        _check(failed)
        threads = torch.get_num_threads()
        of_norms = None
        if ctx.needs_input_grad[1]:
            of_norms = joined.new_zeros(threads, 2, heads.size, dtype=torch.float32)
        of_joined = torch.empty_like(joined)
        library.compiled().join_heads_back(
            _heads_of(joined, heads, line),
            *map(address, (joined, *part_slopes, of_joined, of_norms)),
        )
        if of_norms is None:
            return of_joined, None, None, None, None
        of_query, of_key = of_norms.sum(0)
        return of_joined, of_query.to(query_norm.dtype), of_key.to(key_norm.dtype), None, None


def _split(
    joined: torch.Tensor, heads: Heads, line: Line
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values as [head, token, size], normed and turned."""
    tokens = len(joined)
    queries = joined.new_empty(heads.heads, tokens, heads.size)
    keys = joined.new_empty(heads.key_heads, tokens, heads.size)
    values = torch.empty_like(keys)
    library.compiled().split_heads(
        _heads_of(joined, heads, line), *map(address, (joined, queries, keys, values))
    )
    return queries, keys, values


def _heads_of(joined: torch.Tensor, heads: Heads, line: Line) -> Any:
    return ctypes.byref(
        library.Heads(
            tokens=len(joined),
            heads=heads.heads,
            key_heads=heads.key_heads,
            size=heads.size,
            query_weight=address(heads.query_norm),
            key_weight=address(heads.key_norm),
            cos=address(line.cos),
            sin=address(line.sin),
            epsilon=heads.epsilon,
            threads=torch.get_num_threads(),
        )
    )


def _line_of(joined: torch.Tensor, heads: Heads, line: Line) -> Any:
    return ctypes.byref(
        library.Line(
            tokens=len(joined),
            heads=heads.heads,
            key_heads=heads.key_heads,
            size=heads.size,
            shared=line.shared,
            segments=len(line.starts) - 1,
            starts=address(line.starts),
            threads=torch.get_num_threads(),
            scale=heads.scale,
        )
    )


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the scores of one thread's rows")


def _attend_plainly(joined: torch.Tensor, heads: Heads, line: Line) -> torch.Tensor:
    query_width, key_width = heads.heads * heads.size, heads.key_heads * heads.size
    queries, keys, values = (
        part.view(len(joined), -1, heads.size)
        for part in joined.split([query_width, key_width, key_width], dim=-1)
    )
    if heads.query_norm is not None:
        queries = functional.rms_norm(queries, (heads.size,), heads.query_norm, heads.epsilon)
        keys = functional.rms_norm(keys, (heads.size,), heads.key_norm, heads.epsilon)
    cos, sin = (part.to(joined.dtype)[:, None] for part in (line.cos, line.sin))
    queries, keys = _turned(queries, cos, sin), _turned(keys, cos, sin)
    starts, shared, scale = line.starts.tolist(), line.shared, heads.scale
    pieces = []
    if shared:
        pieces.append(_causal(queries[:shared], keys[:shared], values[:shared], scale=scale))
    for start, end in pairwise(starts):
        own_keys, own_values = keys[start:end], values[start:end]
        if shared:
            own_keys = torch.cat([keys[:shared], own_keys])
            own_values = torch.cat([values[:shared], own_values])
        pieces.append(_causal(queries[start:end], own_keys, own_values, scale=scale))
    return torch.cat(pieces).flatten(1)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def _causal(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """[tokens, heads, size]; keys may begin with some that every query sees."""
    tokens, before = len(queries), len(keys) - len(queries)
    mask = None
    if before:
        mask = torch.ones(tokens, len(keys), dtype=torch.bool, device=queries.device).tril(before)
    attended = functional.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return attended[0].transpose(0, 1)
