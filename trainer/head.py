"""The loss over label positions only, a chunk of the vocabulary's logits at a time.

Cross entropy's gradient towards the logits is softmax - onehot, so it is made in the same pass
and the logits are never kept: at most CHUNK_ELEMENTS of them exist at once, where the usual way
keeps [tokens, vocabulary] twice (1.2 GB at 1,024 tokens and Qwen's 151,936 entries in float32).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainer.kernels import library

# 64 MiB in bfloat16: small beside any model with such a vocabulary, and the products stay large.
CHUNK_ELEMENTS = 32 * 1024 * 1024


def label_loss(
    *,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    divisor: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the cross entropies of `hidden` [labels, width] over `divisor`, float32; and how many
    of the targets are hit: no token is likelier.

    Gradients flow to `hidden`, and to `weight` [vocabulary, width] and `bias` if they ask for it.
    """
    loss, hits = _ChunkedLoss.apply(hidden, weight, bias, targets, divisor)
    return loss, hits


class _ChunkedLoss(torch.autograd.Function):  # type: ignore[misc] # torch is Any to mypy
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        divisor: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        factors = None
        if any(ctx.needs_input_grad[:3]):
            factors = hidden.new_full((len(hidden),), 1.0 / divisor, dtype=torch.float32)
        found = by_chunks(
            hidden, weight, bias, targets, factors=factors, wanted=ctx.needs_input_grad[:3]
        )
        ctx.gradients = found.gradients
        hits = found.hits.sum()
        ctx.mark_non_differentiable(hits)
        return found.losses.sum() / divisor, hits

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slope = slopes[0]
        gradients = [
            None if gradient is None else gradient.mul_(slope.to(gradient.dtype))
            for gradient in ctx.gradients
        ]
        ctx.gradients = None
        return (*gradients, None, None)


Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


@dataclass(frozen=True)
class Scored:
    """Labels, each against the whole vocabulary."""

    losses: torch.Tensor  # [labels], float32: cross entropies
    hits: torch.Tensor  # [labels], uint8: whether no other token is likelier
    gradients: Gradients  # towards hidden, weight and bias, as far as they were asked for


def by_chunks(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    factors: torch.Tensor | None,
    wanted: tuple[bool, bool, bool],
) -> Scored:
    """Cross entropies, and the gradients asked for of their sum weighted by `factors` [labels],
    float32; without factors there are none."""
    losses = hidden.new_empty(len(hidden), dtype=torch.float32)
    hits = hidden.new_empty(len(hidden), dtype=torch.uint8)
    hidden_gradient = torch.empty_like(hidden) if wanted[0] else None
    weight_gradient = torch.zeros_like(weight) if wanted[1] else None
    bias_gradient = torch.zeros_like(bias) if wanted[2] and bias is not None else None
    rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
    for start in range(0, len(hidden), rows):
        chunk = slice(start, start + rows)
        part = hidden[chunk]
        logits = torch.nn.functional.linear(part, weight, bias)
        losses[chunk], hits[chunk], slope = _cross_entropies(
            logits, targets[chunk], None if factors is None else factors[chunk]
        )
        if slope is None:
            continue
        if hidden_gradient is not None:
            torch.mm(slope, weight, out=hidden_gradient[chunk])
        if weight_gradient is not None:
            weight_gradient.addmm_(slope.t(), part)
        if bias_gradient is not None:
            bias_gradient += slope.sum(dim=0)
    return Scored(losses, hits, (hidden_gradient, weight_gradient, bias_gradient))


def _cross_entropies(
    logits: torch.Tensor, targets: torch.Tensor, factors: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Of each row, whether it is a hit, and with `factors` the slopes of the logits (whose memory
    may be taken)."""
    if (compiled := library.usable(logits)) is not None:
        losses = logits.new_empty(len(logits), dtype=torch.float32)
        hits = logits.new_empty(len(logits), dtype=torch.uint8)
        compiled.cross_entropies(
            library.address(logits),
            library.address(targets),
            library.address(factors),
            library.address(losses),
            library.address(hits),
            *logits.shape,
            torch.get_num_threads(),
        )
        return losses, hits, None if factors is None else logits
    wide = logits.float()
    log_total = wide.logsumexp(dim=1, keepdim=True)
    at_target = wide.gather(1, targets[:, None])
    losses = (log_total - at_target)[:, 0]
    hits = at_target[:, 0] >= wide.amax(dim=1)
    if factors is None:
        return losses, hits, None
    slope = wide.sub_(log_total).exp_()
    slope.scatter_add_(1, targets[:, None], torch.full_like(at_target, -1.0))
    return losses, hits, slope.mul_(factors[:, None]).to(logits.dtype)
