"""One forward pass for many sequences: from what each still has to read, to logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from engines.builtin.attention import Chunk, Singles, gathered
from engines.builtin.cache import BlockCache
from engines.builtin.lora import Adaptations, Adapter
from engines.builtin.model import Decoder, StepTokens


@dataclass(frozen=True)
class Work:
    """What one sequence contributes to a step: tokens to read into its slot, after `start`.

    A sequence keeps its slot while it runs; the slots in use may have gaps. With `start` 0 the
    slot begins anew.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wants_logits: bool  # of its last token
    scores: bool = False  # a row for each of its tokens, whatever follows the last
    adapter: Adapter | None = None

    @property
    def rows(self) -> int:
        """Of logits that it wants, those of its last tokens."""
        return len(self.tokens) if self.scores else int(self.wants_logits)


class StepRunner(Protocol):
    """What the scheduler asks of a model."""

    keeps_blocks: bool
    """Whether all it keeps of a token is in the block where that token belongs: then a sequence
    may begin with blocks that another one filled, and the same work may be run again."""

    def place(self, slot: int, blocks: Sequence[int], *, first: int) -> None:
        """The slot's sequence has its tokens in these blocks, from its `first` block on."""
        ...

    def run(self, work: Sequence[Work]) -> torch.Tensor:
        """Float32 logits, as many rows for each as it has `rows`, in the order of `work`.

        Work of a single token comes first.
        """
        ...


class Runner:
    """Turns work into tensors and runs them through a decoder."""

    keeps_blocks = True

    def __init__(self, decoder: Decoder, cache: BlockCache, adaptations: Adaptations) -> None:
        self._decoder = decoder
        self._adaptations = adaptations
        self._cache = cache
        self._device = decoder.device
        self._like = torch.empty(0, device=decoder.device, dtype=decoder.dtype)

    def place(self, slot: int, blocks: Sequence[int], *, first: int) -> None:
        self._cache.place(slot, blocks, first=first)

    def run(self, work: Sequence[Work]) -> torch.Tensor:
        owners = [each.adapter for each in work for _ in each.tokens]
        self._adaptations.begin(owners, device=self._device)
        with torch.inference_mode():
            return self._decoder.logits(self._assemble(work), self._cache)

    def _assemble(self, work: Sequence[Work]) -> StepTokens:
        tokens: list[int] = []
        outputs: list[int] = []
        chunks: list[Chunk] = []
        for each in work:
            if len(each.tokens) > 1:
                chunks.append(self._chunk(each, first=len(tokens)))
            tokens += each.tokens
            outputs += range(len(tokens) - each.rows, len(tokens))
        counts = [len(each.tokens) for each in work]
        slots = np.repeat([each.slot for each in work], counts)
        positions = np.concatenate(
            [np.arange(each.start, each.start + len(each.tokens)) for each in work]
        )
        return StepTokens(
            tokens=self._tensor(tokens),
            positions=self._tensor(positions),
            cache_rows=self._tensor(self._cache.rows(slots, positions)),
            singles=self._singles(work[: len(work) - len(chunks)]),
            chunks=chunks,
            outputs=self._tensor(outputs),
        )

    def _singles(self, work: Sequence[Work]) -> Singles | None:
        if not work:
            return None
        return Singles(
            self._cache.tables[[each.slot for each in work]],
            np.array([each.start + 1 for each in work]),
            kv_heads=self._cache.kv_heads,
            like=self._like,
        )

    def _chunk(self, work: Work, *, first: int) -> Chunk:
        count = len(work.tokens)
        if work.start == 0:
            return Chunk(0, first, count, sequence=None, mask=None)
        end = work.start + count
        mask = self._like.new_full((count, end), -torch.inf).triu_(work.start + 1)
        sequence = gathered(
            self._cache.tables[[work.slot]],
            end,
            kv_heads=self._cache.kv_heads,
            device=self._device,
        )
        return Chunk(work.start, first, count, sequence=sequence, mask=mask)

    def _tensor(self, values: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(self._device)
