"""Runs steps through the compiled decoder: what `engines.builtin.runner` does through the eager one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engines.builtin.cache import BlockCache
from engines.builtin.kernels import library
from engines.builtin.kernels.decoder import CompiledDecoder, Rows, can_run
from engines.builtin.lora import Adaptations
from engines.builtin.runner import Work
from engines.builtin.shape import DecoderShape


def kernels_for(shape: DecoderShape, *, device: str, dtype: torch.dtype) -> Any | None:
    """The compiled library if it is made for this model and can be had here."""
    return library.load() if can_run(shape, device=device, dtype=dtype) else None


class CompiledRunner:
    """Turns work into arrays and runs them through a compiled decoder."""

    keeps_blocks = True

    def __init__(
        self, decoder: CompiledDecoder, cache: BlockCache, adaptations: Adaptations
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._adaptations = adaptations

    def place(self, slot: int, blocks: Sequence[int], *, first: int) -> None:
        self._cache.place(slot, blocks, first=first)

    def run(self, work: Sequence[Work]) -> torch.Tensor:
        """Float32 logits, the rows that each wants; valid until the next run."""
        owners = [each.adapter for each in work for _ in each.tokens]
        self._adaptations.begin(owners, device=self._decoder.device)
        with torch.inference_mode():
            return self._decoder.logits(_rows(work), self._cache)


def _rows(work: Sequence[Work]) -> Rows:
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    outputs: list[int] = []
    for each in work:
        count = len(each.tokens)
        tokens += each.tokens
        positions += range(each.start, each.start + count)
        slots += [each.slot] * count
        outputs += range(len(tokens) - each.rows, len(tokens))
    arrays = (np.array(values, dtype=np.int64) for values in (tokens, positions, slots, outputs))
    return Rows(*arrays)
