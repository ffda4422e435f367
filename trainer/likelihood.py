"""Log-probabilities of labels, a chunk of the vocabulary's logits at a time.

What a preference loss asks of a label's logit is known only when all labels of its answer are. So
forward keeps the hidden states and no logits; backward makes each chunk's logits once more:
d log p(target) / d logits = onehot - softmax. At most `head.CHUNK_ELEMENTS` logits exist at once.
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
        found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        for part in _parts(len(targets), weight):
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
            at_target = logits.gather(1, targets[part][:, None])[:, 0]
            found[part] = at_target - logits.logsumexp(dim=1)
        ctx.save_for_backward(hidden, weight, bias, targets)
        return found

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = slopes
        hidden, weight, bias, targets = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        weight_gradient = torch.zeros_like(weight) if wants_weight else None
        bias_gradient = torch.zeros_like(bias) if wants_bias and bias is not None else None
        for part in _parts(len(targets), weight):
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
            away = torch.softmax(logits, dim=1).neg_()
            one = torch.ones((away.shape[0], 1), dtype=away.dtype, device=away.device)
            away.scatter_add_(1, targets[part][:, None], one)
            away = away.mul_(slope[part][:, None]).to(hidden.dtype)
            if hidden_gradient is not None:
                torch.mm(away, weight, out=hidden_gradient[part])
            if weight_gradient is not None:
                weight_gradient.addmm_(away.t(), hidden[part])
            if bias_gradient is not None:
                bias_gradient += away.sum(dim=0)
        return hidden_gradient, weight_gradient, bias_gradient, None


def _parts(labels: int, weight: torch.Tensor) -> list[slice]:
    rows = max(1, head.CHUNK_ELEMENTS // weight.shape[0])
    return [slice(start, min(start + rows, labels)) for start in range(0, labels, rows)]


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
