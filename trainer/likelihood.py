"""Log-probabilities of labels, a chunk of the vocabulary's logits at a time.

What a preference loss asks of a label's logit is known only when all labels of its answer are. So
forward keeps the hidden states and no logits; backward makes each chunk's logits once more. A
log-probability is a cross entropy with its sign turned, so both are `trainer.head`'s.
"""

from __future__ import annotations

from typing import Any

import torch

from trainer import head


class _ChunkedLogProbabilities(torch.autograd.Function):  # type: ignore[misc] # torch is Any to mypy
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight, bias, targets)
        nothing = (False, False, False)
        return head.by_chunks(
            hidden, weight, bias, targets, factors=None, wanted=nothing
        ).losses.neg_()

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        factors = slopes[0].float().neg().contiguous()
        wanted = ctx.needs_input_grad[:3]
        found = head.by_chunks(hidden, weight, bias, targets, factors=factors, wanted=wanted)
        return (*found.gradients, None)


def label_log_probabilities(
    *,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
) -> torch.Tensor:
    """[labels], float32: the log-probability of each target after its hidden state.

    Gradients flow to `hidden` [labels, width], and to `weight` and `bias` if they ask for it.
    """
    found: torch.Tensor = _ChunkedLogProbabilities.apply(hidden, weight, bias, targets)
    return found
