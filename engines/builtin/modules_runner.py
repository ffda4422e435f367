"""Models without a forward pass of ours: transformers' own modules behind the runner's interface.

Slower than `runner.Runner`, and the reference for it. Single tokens of many sequences go through
in one pass where the cache allows; a longer chunk of a prompt is a pass of its own.
"""

from collections.abc import Sequence

import torch

from engines.builtin.modules_cache import ModulesCache, Rows
from engines.builtin.modules_loading import Modules
from engines.builtin.runner import Work


class ModulesRunner:
    """Turns work into passes over the modules. Not safe to call from two threads at once."""

    keeps_blocks = False  # each slot holds what the modules keep, whatever that is

    def __init__(self, modules: Modules, cache: ModulesCache) -> None:
        self._modules = modules
        self._cache = cache

    def place(self, slot: int, blocks: Sequence[int], *, first: int) -> None:
        """Nothing to do: the slot has a place of its own."""

    def run(self, work: Sequence[Work]) -> torch.Tensor:
        """Float32 logits, the rows that each wants, in the order of `work`."""
        last: dict[int, torch.Tensor] = {}  # of each work that wants some: [rows, hidden]
        with torch.inference_mode():
            for group in self._passes(work):
                hidden = self._run([work[index] for index in group])
                for row, index in enumerate(group):
                    if wanted := work[index].rows:
                        last[index] = hidden[row, -wanted:]
            if not last:
                return torch.empty(0, self._modules.shape.vocabulary, device=self._modules.device)
            rows = torch.cat([last[index] for index in sorted(last)])
            return self._modules.head(rows).float()

    def _passes(self, work: Sequence[Work]) -> list[list[int]]:
        """Indices of the work that goes through together."""
        if not self._cache.batches:
            return [[index] for index in range(len(work))]
        singles = [index for index, each in enumerate(work) if len(each.tokens) == 1]
        chunks = [[index] for index, each in enumerate(work) if len(each.tokens) > 1]
        return [singles, *chunks] if singles else chunks

    def _run(self, work: Sequence[Work]) -> torch.Tensor:
        """The hidden states after each one's tokens: [sequences, tokens, hidden]."""
        device = self._modules.device
        tokens = torch.tensor([list(each.tokens) for each in work], device=device)
        positions = [range(each.start, each.start + len(each.tokens)) for each in work]
        rows = Rows([each.slot for each in work], torch.tensor(positions, device=device))
        cache, mask = self._cache.begin(rows)
        hidden: torch.Tensor = self._modules.backbone(
            input_ids=tokens,
            position_ids=rows.positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        self._cache.end(rows)
        return hidden
