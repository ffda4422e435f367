"""One forward pass for many sequences: from what each still has to read, to logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engines.builtin.cache import SlotCache
from engines.builtin.lora import Adaptations, Adapter
from engines.builtin.model import ChunkTokens, Decoder, StepTokens


@dataclass(frozen=True)
class Work:
    """What one sequence contributes to a step: tokens to read into its slot, after `start`."""

    slot: int
    start: int
    tokens: Sequence[int]
    wants_logits: bool  # of its last token
    adapter: Adapter | None = None


class Runner:
    """Turns work into tensors and runs them. Sequences in work hold slots 0 to n - 1."""

    def __init__(self, decoder: Decoder, cache: SlotCache, adaptations: Adaptations) -> None:
        self._decoder = decoder
        self._adaptations = adaptations
        self._cache = cache
        self._device = decoder.device

    def run(self, work: Sequence[Work]) -> torch.Tensor:
        """Float32 logits, a row for each that wants them, in the order of `work`.

        Work of a single token must come first, ordered by slot.
        """
        owners = [each.adapter for each in work for _ in each.tokens]
        self._adaptations.begin(owners, device=self._device)
        with torch.inference_mode():
            return self._decoder.logits(self._assemble(work), self._cache)

    def _assemble(self, work: Sequence[Work]) -> StepTokens:
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        chunks: list[ChunkTokens] = []
        outputs: list[int] = []
        singles: list[Work] = []
        for each in work:
            count = len(each.tokens)
            if count == 1:
                singles.append(each)
            else:
                mask = self._chunk_mask(each.start, count)
                chunks.append(ChunkTokens(each.slot, each.start, len(tokens), count, mask))
            tokens += each.tokens
            positions += range(each.start, each.start + count)
            slots += [each.slot] * count
            if each.wants_logits:
                outputs.append(len(tokens) - 1)
        position_row = self._tensor(positions)
        used, longest = 0, 0
        if singles:
            used = max(each.slot for each in singles) + 1
            longest = max(each.start for each in singles) + 1
        single_slots = self._tensor(slots[: len(singles)])
        dense = all(each.slot == index for index, each in enumerate(singles))
        return StepTokens(
            tokens=self._tensor(tokens),
            positions=position_row,
            cache_rows=self._cache.rows(self._tensor(slots), position_row),
            singles=len(singles),
            single_slots=None if dense else single_slots,
            slots=used,
            longest=longest,
            single_mask=self._single_mask(singles, used, longest),
            chunks=chunks,
            outputs=self._tensor(outputs),
        )

    def _single_mask(self, singles: list[Work], slots: int, longest: int) -> torch.Tensor | None:
        """Hides what lies past each sequence's end; None where all are equally long."""
        lengths = [longest] * slots
        for each in singles:
            lengths[each.slot] = each.start + 1
        if all(length == longest for length in lengths):
            return None
        hidden = torch.arange(longest, device=self._device) >= self._tensor(lengths)[:, None]
        mask = torch.zeros(slots, longest, dtype=self._decoder.dtype, device=self._device)
        return mask.masked_fill_(hidden, -torch.inf)[:, None, None]

    def _chunk_mask(self, start: int, count: int) -> torch.Tensor | None:
        if start == 0:
            return None
        size = (count, start + count)
        mask = torch.full(size, -torch.inf, dtype=self._decoder.dtype, device=self._device)
        return mask.triu_(start + 1)

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)
