"""Weights as panels in memory of their own, for the compiled products."""

import ctypes
import mmap
from collections.abc import Mapping
from typing import Any

import torch

from engines.builtin.kernels.library import Matrix, address, aligned
from engines.builtin.projection import Projection
from engines.builtin.weights import MakeProjection

TILE_ROWS = 12  # as in tiles.h
PANEL_OUTPUTS = 32
GROUP_INPUTS = 128  # four-bit weights that share a scale


def packing(library: Any, *, threads: int, bits: int) -> MakeProjection:
    """Makes packed projections. The head, in which each answer's words are told apart, and whoever's
    inputs are no whole groups stay at 16 bits."""

    def make(
        weight: torch.Tensor, bias: torch.Tensor | None, /, *, parts: Mapping[str, int]
    ) -> PackedProjection:
        whole = weight.shape[1] % GROUP_INPUTS == 0 and "lm_head" not in parts
        used = bits if whole else 16
        return PackedProjection(library, weight, bias, parts=parts, threads=threads, bits=used)

    return make


class PackedProjection(Projection):
    """A projection in bfloat16 over packed weights of 16 or 4 bits; the stored ones are let go."""

    def __init__(
        self,
        library: Any,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        parts: Mapping[str, int],
        threads: int,
        bits: int = 16,
    ) -> None:
        super().__init__(weight, bias, parts=parts)
        self._library = library
        self._threads = threads
        self.matrix = Matrix(
            bias=address(bias), outputs=self.outputs, inputs=self.inputs, bits=bits
        )
        self._panels = _on_large_pages(library.packed_bytes(ctypes.byref(self.matrix)))
        self.matrix.panels = address(self._panels)
        library.pack_matrix(ctypes.byref(self.matrix), address(weight), threads)
        self.weight = None

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.contiguous()
        out = rows.new_empty(len(rows), self.outputs)
        packed = aligned(packed_rows(len(rows)) * self.inputs, torch.bfloat16)
        scratch = aligned(self._threads * self.inputs * PANEL_OUTPUTS, torch.bfloat16)
        self._library.multiply(
            ctypes.byref(self.matrix),
            address(rows),
            len(rows),
            address(out),
            address(packed),
            address(scratch),
            self._threads,
        )
        return out

    def unpacked(self) -> torch.Tensor:
        """The weights as the products see them, [outputs, inputs]."""
        weight = torch.empty(self.outputs, self.inputs, dtype=torch.bfloat16)
        scratch = aligned(self.inputs * PANEL_OUTPUTS, torch.bfloat16)
        self._library.unpack_matrix(ctypes.byref(self.matrix), address(weight), address(scratch))
        return weight

    @property
    def total_bytes(self) -> int:
        return len(self._panels) + super().total_bytes


def packed_rows(rows: int) -> int:
    """Rows that a packed copy of so many has room for: whole blocks."""
    return rows + TILE_ROWS


def _on_large_pages(size: int) -> torch.Tensor:
    """Fresh memory. Large pages spare most of the look-ups of addresses, a third of the time at one
    row; the system gives them where it can."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
