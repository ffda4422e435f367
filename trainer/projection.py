"""Linear layers that read the same rows, as one product; with or without LoRA adapters.

The layers stay transformers' and PEFT's own: their weights become views of one joined tensor, so
that they are saved, loaded and merged as ever. A frozen weight costs no product in backward, and
the adapters of all layers go through four small products instead of six for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class _Adapter:
    down: torch.Tensor  # [rank, inputs]
    up: torch.Tensor  # [outputs, rank]
    scale: float
    first: int  # of the outputs that it changes


class Projection:
    """`[rows, inputs] -> [rows, outputs of all modules]`, in the order of the modules."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = list(modules)
        bases = [_base(module) for module in self._modules]
        self._linears = bases if all(type(base) is nn.Linear for base in bases) else None
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        adapters = self._adapters()
        if self._linears is None or adapters is None:  # other variants of adapters, other weights
            return torch.cat([module(x) for module in self._modules], dim=-1)
        weight, bias = self._joined(self._linears)
        if adapters and not _any_trained(self._linears):
            ups = [adapter.up for adapter in adapters]
            downs = [adapter.down for adapter in adapters]
            places = tuple((adapter.first, adapter.scale) for adapter in adapters)
            adapted: torch.Tensor = _Adapted.apply(x, weight, bias, places, *downs, *ups)
            return adapted
        if adapters:
            return torch.cat([module(x) for module in self._modules], dim=-1)
        if not _any_trained(self._linears):
            return functional.linear(x, weight, bias)
        weights = [linear.weight for linear in self._linears]
        biases = [linear.bias for linear in self._linears if linear.bias is not None]
        whole: torch.Tensor = _Whole.apply(x, weight, bias, len(weights), *weights, *biases)
        return whole

    def _joined(self, linears: list[nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
        weights = [linear.weight for linear in linears]
        if self._weight is None or not _are_views(weights, self._weight):
            self._weight = _join(weights)
        biases = [linear.bias for linear in linears if linear.bias is not None]
        if len(biases) not in (0, len(linears)):
            raise ValueError("some of the joined layers have a bias and some have none")
        if biases and (self._bias is None or not _are_views(biases, self._bias)):
            self._bias = _join(biases)
        return self._weight, self._bias

    def _adapters(self) -> list[_Adapter] | None:
        """Those in force; None where one of them is no plain product of two matrices."""
        found, first = [], 0
        for module in self._modules:
            names = _active_names(module)
            if len(names) > 1 or (names and not _is_plain(module, names[0])):
                return None
            for name in names:
                down, up = module.lora_A[name].weight, module.lora_B[name].weight
                found.append(_Adapter(down, up, float(module.scaling[name]), first))
            first += _base(module).out_features
        return found


class _Whole(torch.autograd.Function):  # type: ignore[misc] # torch is Any to mypy
    """A joined layer that learns: one product for the slopes of all its weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        layers: int,
        *own: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sizes = [part.shape[0] for part in own[:layers]]
        ctx.biases = len(own) - layers
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = slopes[0]
        of_x = slope @ weight if ctx.needs_input_grad[0] else None
        of_weights = (slope.t() @ x).split(ctx.sizes)
        of_biases = slope.sum(0).split(ctx.sizes) if ctx.biases else ()
        return (of_x, None, None, None, *of_weights, *of_biases)


class _Adapted(torch.autograd.Function):  # type: ignore[misc]
    """`x W^T + sum of scale * (x A^T) B^T` at each adapter's outputs; no slope of W is made.

    All adapters' A lie above each other, and their scaled B on the diagonal of one matrix.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        places: tuple[tuple[int, float], ...],
        *matrices: torch.Tensor,
    ) -> torch.Tensor:
        downs, ups = matrices[: len(places)], matrices[len(places) :]
        down = torch.cat(downs)
        up = weight.new_zeros(weight.shape[0], down.shape[0])
        at = 0
        for (first, scale), part in zip(places, ups, strict=True):
            outputs, rank = part.shape
            torch.mul(part, scale, out=up[first : first + outputs, at : at + rank])
            at += rank
        inner = x @ down.t()
        out = functional.linear(x, weight, bias).addmm_(inner, up.t())
        ctx.save_for_backward(x, weight, inner, down, up)
        ctx.places, ctx.shapes = places, [part.shape for part in ups]
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inner, down, up = ctx.saved_tensors
        slope = slopes[0]
        of_inner = slope @ up
        of_x = (slope @ weight).addmm_(of_inner, down) if ctx.needs_input_grad[0] else None
        of_downs = (of_inner.t() @ x).split([rank for _, rank in ctx.shapes])
        of_up, of_ups, at = slope.t() @ inner, [], 0
        for (first, scale), (outputs, rank) in zip(ctx.places, ctx.shapes, strict=True):
            of_ups.append(of_up[first : first + outputs, at : at + rank] * scale)
            at += rank
        return (of_x, None, None, None, *of_downs, *of_ups)


def _base(module: nn.Module) -> Any:
    return getattr(module, "base_layer", module)


def _active_names(module: Any) -> list[str]:
    if not hasattr(module, "lora_A") or module.disable_adapters or module.merged:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def _is_plain(module: Any, name: str) -> bool:
    """LoRA or rsLoRA (another scale), and no dropout at work."""
    dropout = module.lora_dropout[name]
    return (
        not module.lora_variant
        and not module.lora_bias[name]
        and (isinstance(dropout, nn.Identity) or not dropout.training or dropout.p == 0.0)
        and module.lora_A[name].weight.dtype == module.base_layer.weight.dtype
    )


def _any_trained(linears: Sequence[nn.Linear]) -> bool:
    return any(linear.weight.requires_grad for linear in linears)


def _are_views(parts: Sequence[torch.Tensor], joined: torch.Tensor) -> bool:
    at = joined.data_ptr()
    for part in parts:
        if part.data_ptr() != at or part.dtype != joined.dtype:
            return False
        at += part.numel() * part.element_size()
    return True


def _join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor of all parts, which become views of it."""
    if len(parts) == 1:
        return parts[0].detach()
    joined = torch.cat([part.detach() for part in parts])
    at = 0
    for part in parts:
        part.data = joined[at : at + part.shape[0]]
        at += part.shape[0]
    return joined
