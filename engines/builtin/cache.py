"""The KV cache: the keys and values of all sequences, in blocks of equally many tokens."""

from collections.abc import Sequence

import numpy as np
import torch

from engines.builtin.blocks import BLOCK_TOKENS, blocks_for
from engines.builtin.shape import DecoderShape


class BlockCache:
    """Keys and values [layers, blocks, kv_heads, BLOCK_TOKENS, head_size], and whose they are.

    Row s of `tables` names the blocks of the sequence in slot s, in order; token t of it is in
    block tables[s, t // BLOCK_TOKENS] at t % BLOCK_TOKENS. Memory is finite from the start (masked
    positions are multiplied by zero, and zero times NaN is NaN) and, on CPUs, costs nothing until
    it is first written.
    """

    def __init__(
        self,
        shape: DecoderShape,
        *,
        blocks: int,
        slots: int,
        context: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        size = (shape.layers, blocks, shape.kv_heads, BLOCK_TOKENS, shape.head_size)
        self.keys = lazy_zeros(size, device=device, dtype=dtype)
        self.values = lazy_zeros(size, device=device, dtype=dtype)
        self.tables = np.zeros((slots, blocks_for(context)), dtype=np.int64)
        self.kv_heads = shape.kv_heads
        # The same memory as rows of one head's values, for writing scattered rows in one call.
        self._key_rows = self.keys.view(shape.layers, -1, shape.head_size)
        self._value_rows = self.values.view(shape.layers, -1, shape.head_size)

    def place(self, slot: int, blocks: Sequence[int], *, first: int = 0) -> None:
        """Says which blocks hold the slot's sequence, from its `first` block on."""
        self.tables[slot, first : first + len(blocks)] = blocks

    def rows(self, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Where tokens go: for each (slot, position), its kv_heads rows, flattened."""
        blocks = self.tables[slots, positions // BLOCK_TOKENS]
        heads = blocks[:, None] * self.kv_heads + np.arange(self.kv_heads)
        rows: np.ndarray = heads * BLOCK_TOKENS + (positions % BLOCK_TOKENS)[:, None]
        return rows.ravel()

    def write(
        self, layer: int, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Stores [tokens, kv_heads, head_size] each."""
        size = keys.shape[-1]
        self._key_rows[layer].index_copy_(0, rows, keys.reshape(-1, size))
        self._value_rows[layer].index_copy_(0, rows, values.reshape(-1, size))


def lazy_zeros(size: Sequence[int], *, device: str, dtype: torch.dtype) -> torch.Tensor:
    """Zeros which, on CPUs, take memory only where they are written."""
    if torch.device(device).type != "cpu":
        return torch.zeros(size, device=device, dtype=dtype)
    # numpy asks the system for zeroed pages, which take memory when they are first written;
    # torch would write the zeros.
    length = int(np.prod(size)) * dtype.itemsize
    raw = torch.from_numpy(np.zeros(length + 64, dtype=np.uint8))
    start = -raw.data_ptr() % 64  # where a cache line begins
    return raw[start : start + length].view(dtype).view(*size)
