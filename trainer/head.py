"""The loss over label positions only, a chunk of the vocabulary's logits at a time.

Cross entropy's gradient towards the logits is softmax - onehot, so it is made in the same pass
and the logits are never kept: at most CHUNK_ELEMENTS of them exist at once, where the usual way
keeps [tokens, vocabulary] twice (1.2 GB at 1,024 tokens and Qwen's 151,936 entries in float32).
"""

from __future__ import annotations

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
) -> torch.Tensor:
    """Sum of the cross entropies of `hidden` [labels, width] over `divisor`, float32.

    Gradients flow to `hidden`, and to `weight` [vocabulary, width] and `bias` if they ask for it.
    """
    loss: torch.Tensor = _ChunkedLoss.apply(hidden, weight, bias, targets, divisor)
    return loss


class _ChunkedLoss(torch.autograd.Function):  # type: ignore[misc] # torch is Any to mypy
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        divisor: float,
    ) -> torch.Tensor:
        factors = None
        if any(ctx.needs_input_grad[:3]):
            factors = hidden.new_full((len(hidden),), 1.0 / divisor, dtype=torch.float32)
        losses, ctx.gradients = _by_chunks(
            hidden, weight, bias, targets, factors=factors, wanted=ctx.needs_input_grad[:3]
        )
        return losses.sum() / divisor

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = slopes
        gradients = [
            None if gradient is None else gradient.mul_(slope.to(gradient.dtype))
            for gradient in ctx.gradients
        ]
        ctx.gradients = None
        return (*gradients, None, None)


Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def _by_chunks(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    factors: torch.Tensor | None,
    wanted: tuple[bool, bool, bool],
) -> tuple[torch.Tensor, Gradients]:
    """Cross entropies [labels], and the gradients asked for of their sum weighted by `factors`."""
    losses = hidden.new_empty(len(hidden), dtype=torch.float32)
    hidden_gradient = torch.empty_like(hidden) if wanted[0] else None
    weight_gradient = torch.zeros_like(weight) if wanted[1] else None
    bias_gradient = torch.zeros_like(bias) if wanted[2] and bias is not None else None
    rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
    for start in range(0, len(hidden), rows):
        chunk = slice(start, start + rows)
        part = hidden[chunk]
        logits = torch.nn.functional.linear(part, weight, bias)
        losses[chunk], slope = _cross_entropies(
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
    return losses, (hidden_gradient, weight_gradient, bias_gradient)


def _cross_entropies(
    logits: torch.Tensor, targets: torch.Tensor, factors: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of each row, and with `factors` the slopes of the logits (whose memory may be taken)."""
    if (compiled := library.usable(logits)) is not None:
        losses = logits.new_empty(len(logits), dtype=torch.float32)
        compiled.cross_entropies(
            library.address(logits),
            library.address(targets),
            library.address(factors),
            library.address(losses),
            *logits.shape,
            torch.get_num_threads(),
        )
        return losses, None if factors is None else logits
    wide = logits.float()
    log_total = wide.logsumexp(dim=1, keepdim=True)
    at_target = wide.gather(1, targets[:, None])
    losses = (log_total - at_target)[:, 0]
    if factors is None:
        return losses, None
    slope = wide.sub_(log_total).exp_()
    slope.scatter_add_(1, targets[:, None], torch.full_like(at_target, -1.0))
    return losses, slope.mul_(factors[:, None]).to(logits.dtype)
