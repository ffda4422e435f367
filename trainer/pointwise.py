"""What lies between a layer's products: sums with norms, and the gated activation.

On CPUs in bfloat16 each is one pass over memory in compiled code, backward included; elsewhere
torch's own operations do the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from trainer.kernels import library

address = library.address


def add_norm(
    x: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, *, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + added` (or `x`), and that over its root mean square, times `weight`; [rows, width]."""
    if library.usable(x) is not None:
        if added is None:
            return x, _Norm.apply(x, weight, epsilon)
        total, normed = _AddNorm.apply(x, added, weight, epsilon)
        return total, normed
    total = x if added is None else x + added
    return total, functional.rms_norm(total, weight.shape, weight, epsilon)


def gated(both: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up` of rows [gate | up]."""
    if library.usable(both) is not None:
        activated: torch.Tensor = _Gated.apply(both)
        return activated
    gate, up = both.chunk(2, dim=-1)
    return functional.silu(gate) * up


class _Norm(torch.autograd.Function):  # type: ignore[misc] # torch is Any to mypy
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        x = x.contiguous()
        _, out, inverse = _add_norm(x, None, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        slope, of_weight = _add_norm_back(
            x, weight, inverse, slopes[0], None, wants_weight=ctx.needs_input_grad[1]
        )
        return slope, of_weight, None


class _AddNorm(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, added: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total, out, inverse = _add_norm(x.contiguous(), added.contiguous(), weight, epsilon)
        ctx.save_for_backward(total, weight, inverse)
        return total, out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        total, weight, inverse = ctx.saved_tensors
        slope, of_weight = _add_norm_back(
            total, weight, inverse, slopes[1], slopes[0], wants_weight=ctx.needs_input_grad[2]
        )
        return slope, slope, of_weight, None


class _Gated(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, both: torch.Tensor) -> torch.Tensor:
        rows, width = both.shape[0], both.shape[1] // 2
        out = both.new_empty(rows, width)
        library.compiled().gated(
            library.address(both), library.address(out), rows, width, torch.get_num_threads()
        )
        ctx.save_for_backward(both)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> torch.Tensor:
        (both,) = ctx.saved_tensors
        slope = torch.empty_like(both)
        library.compiled().gated_back(
            library.address(both),
            library.address(slopes[0].contiguous()),
            library.address(slope),
            both.shape[0],
            both.shape[1] // 2,
            torch.get_num_threads(),
        )
        return slope


def _add_norm(
    x: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, width = x.shape
    total = x if added is None else torch.empty_like(x)
    out, inverse = torch.empty_like(x), x.new_empty(rows, dtype=torch.float32)
    library.compiled().add_norm(
        address(x), address(added), address(weight), address(total), address(out),
        address(inverse), rows, width, epsilon, torch.get_num_threads(),
    )  # fmt: skip
    return total, out, inverse


def _add_norm_back(
    total: torch.Tensor,
    weight: torch.Tensor,
    inverse: torch.Tensor,
    out_slopes: torch.Tensor,
    total_slopes: torch.Tensor | None,
    *,
    wants_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    rows, width = total.shape
    slopes, threads = torch.empty_like(total), torch.get_num_threads()
    of_weight = total.new_zeros(threads, width, dtype=torch.float32) if wants_weight else None
    past = None if total_slopes is None else total_slopes.contiguous()
    library.compiled().add_norm_back(
        address(total), address(weight), address(inverse), address(out_slopes.contiguous()),
        address(past), address(slopes), address(of_weight), rows, width, threads,
    )  # fmt: skip
    return slopes, None if of_weight is None else of_weight.sum(0).to(weight.dtype)
