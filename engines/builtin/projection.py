"""The linear maps of the forward pass as objects: how weights lie in memory is theirs alone."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)


class Adaptation(Protocol):
    """What adapters add to one projection. Its owner says before each step whose the rows are."""

    @property
    def active(self) -> bool:
        """Whether any row of the present step has an adapter that touches this projection."""
        ...

    def add(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Adds to `out` [rows, outputs], in place, what adapters make of `rows` [rows, inputs].

        The rows are all those of the step, in the order of its tokens.
        """
        ...


class Projection:
    """Rows in, rows out: [rows, inputs] -> [rows, outputs].

    `parts` names the stored matrices that were joined into this one and how many outputs each has,
    in order: {"q_proj": 2048, "k_proj": 1024, "v_proj": 1024}.
    """

    adaptation: Adaptation | None = None

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, parts: Mapping[str, int]
    ) -> None:
        self.weight: torch.Tensor | None = weight  # [outputs, inputs]; None once packed otherwise
        self.bias = bias
        self.parts = dict(parts)
        self.outputs, self.inputs = weight.shape

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        out = self.multiply(rows)
        if self.is_adapted:
            self.adapt(rows, out)
        return out

    @property
    def is_adapted(self) -> bool:
        """Whether adapters change this projection in the present step."""
        return self.adaptation is not None and self.adaptation.active

    def adapt(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """What adapters add to the product, in place."""
        if self.adaptation is not None:
            self.adaptation.add(rows, out)

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        """The product alone, without adapters."""
        return F.linear(rows, self.weight, self.bias)

    @property
    def total_bytes(self) -> int:
        return sum(
            each.numel() * each.element_size()
            for each in (self.weight, self.bias)
            if each is not None
        )


class Embedding:
    """Tokens in, rows out: [n] -> [n, hidden]."""

    def __init__(self, table: torch.Tensor | None) -> None:
        self.table: torch.Tensor | None = table  # [vocabulary, hidden]; None if the head keeps it

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            raise TypeError("this table is packed: only the compiled forward pass reads it")
        return F.embedding(tokens, self.table)


class FeedForward(Protocol):
    """The second half of a layer: normed rows in, what is added to the residual out."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor: ...

    @property
    def total_bytes(self) -> int: ...


class DenseFeedForward:
    """down(silu(gate) * up), as every dense Qwen has it."""

    def __init__(self, *, gate_up: Projection, down: Projection) -> None:
        self.gate_up = gate_up
        self.down = down

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(rows).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    @property
    def total_bytes(self) -> int:
        return self.gate_up.total_bytes + self.down.total_bytes
