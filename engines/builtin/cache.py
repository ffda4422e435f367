"""The KV cache: a fixed number of slots, each a dense stretch of one sequence's keys and values."""

import torch

from engines.builtin.shape import DecoderShape


class SlotCache:
    """Keys and values of `slots` sequences of up to `context` tokens.

    A slot's content is finite from the start (masked positions are multiplied by zero, and zero
    times NaN is NaN) and stays whatever its last holder wrote.
    """

    reuses_prefixes = True  # the beginning of a slot may serve another sequence that begins alike

    def __init__(
        self, shape: DecoderShape, *, slots: int, context: int, device: str, dtype: torch.dtype
    ) -> None:
        self.slots = slots
        self.context = context
        size = (shape.layers, slots, shape.kv_heads, context, shape.head_size)
        self.keys = torch.zeros(size, device=device, dtype=dtype)
        self.values = torch.zeros(size, device=device, dtype=dtype)
        # The same memory as rows of one head's values, for writing scattered rows in one call.
        self._key_rows = self.keys.view(shape.layers, -1, shape.head_size)
        self._value_rows = self.values.view(shape.layers, -1, shape.head_size)
        self._heads = torch.arange(shape.kv_heads, device=device)

    def rows(self, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Where tokens go: for each (slot, position), its kv_heads rows, flattened."""
        first = slots[:, None] * len(self._heads) + self._heads
        return (first * self.context + positions[:, None]).flatten()

    def write(
        self, layer: int, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Stores [tokens, kv_heads, head_size] each."""
        size = keys.shape[-1]
        self._key_rows[layer].index_copy_(0, rows, keys.reshape(-1, size))
        self._value_rows[layer].index_copy_(0, rows, values.reshape(-1, size))

    def move(self, *, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of one slot over another."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
