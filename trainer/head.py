"""The loss over label positions only, a chunk of the vocabulary's logits at a time.

Cross entropy's gradient towards the logits is softmax - onehot, so it is made in the same pass
and the logits are never kept: at most CHUNK_ELEMENTS of them exist at once, where the usual way
keeps [tokens, vocabulary] twice (1.2 GB at 1,024 tokens and Qwen's 151,936 entries in float32).
"""

from __future__ import annotations

from typing import Any

import torch

# 64 MiB of float32: small beside any model with such a vocabulary, and the products stay large.
CHUNK_ELEMENTS = 16 * 1024 * 1024


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
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        weight_gradient = torch.zeros_like(weight) if wants_weight else None
        bias_gradient = torch.zeros_like(bias) if wants_bias and bias is not None else None
        rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
        for start in range(0, hidden.shape[0], rows):
            part, wanted = hidden[start : start + rows], targets[start : start + rows]
            logits = torch.nn.functional.linear(part, weight, bias).float()
            log_total = logits.logsumexp(dim=1, keepdim=True)
            at_target = logits.gather(1, wanted[:, None])
            total += (log_total - at_target).sum()
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            slope = logits.sub_(log_total).exp_()
            slope.scatter_add_(1, wanted[:, None], torch.full_like(at_target, -1.0))
            slope = slope.div_(divisor).to(hidden.dtype)
            if hidden_gradient is not None:
                torch.mm(slope, weight, out=hidden_gradient[start : start + rows])
            if weight_gradient is not None:
                weight_gradient.addmm_(slope.t(), part)
            if bias_gradient is not None:
                bias_gradient += slope.sum(dim=0)
        ctx.gradients = (hidden_gradient, weight_gradient, bias_gradient)
        return total / divisor

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = slopes
        gradients = [
            None if gradient is None else gradient.mul_(slope.to(gradient.dtype))
            for gradient in ctx.gradients
        ]
        ctx.gradients = None
        return (*gradients, None, None)


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
