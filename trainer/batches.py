"""Which examples make a step, and the tensors of a micro-batch.

Examples of like length share a micro-batch and are padded on the right. Under causal attention no
token sees what comes after it, so the padding needs no mask, costs a few percent, and examples
cannot see each other: every one has a row of its own. With `packing`, a micro-batch holds as many
rows as fit in `batch_size * max_length_tokens`; without, always `batch_size` of them.

Where all rows of a micro-batch begin with the same tokens, that beginning may be laid out once
(see `trainer.attention`): [shared | row 1 | row 2 ...] on one line.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.attention import SHORT_TOKENS
from trainer.data import Example
from trainer.spec import Hyperparameters

# Examples are sorted by length within a random pool of this many steps: enough for little padding
# and little enough for steps to stay mixed.
_POOL_STEPS = 16

_LEAST_SHARED = 8  # below this the other layout costs as much as it saves

Step = list[list[int]]  # micro-batches of example numbers


@dataclass(frozen=True)
class Batch:
    ids: torch.Tensor  # [rows, longest], padded on the right with 0; [1, places] when shared
    positions: torch.Tensor  # [labels]: flat places in `ids` whose next token is learnt
    targets: torch.Tensor  # [labels]: those next tokens
    tokens: int  # of the examples, without padding
    rows: int = 1
    shared: int = 0  # tokens of the beginning laid out once

    def to(self, device: torch.device) -> Batch:
        return dataclasses.replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            targets=self.targets.to(device),
        )

    def places(self) -> torch.Tensor:
        """[1, places]: each token's place in its own example, for a shared layout."""
        shared, own = self.shared, (self.ids.shape[1] - self.shared) // self.rows
        device = self.ids.device
        rows = torch.arange(shared, shared + own, device=device).repeat(self.rows)
        return torch.cat([torch.arange(shared, device=device), rows])[None]


class StepPlan:
    """Every step of a run, as a pure function of lengths, hyperparameters and step number."""

    def __init__(self, lengths: Sequence[int], hyperparameters: Hyperparameters) -> None:
        self._lengths = lengths
        self._given = hyperparameters
        self._epoch_starts = [0]
        self._epochs: dict[int, list[Step]] = {}
        whole, part = divmod(hyperparameters.epochs, 1)
        for epoch in range(int(whole) + (part > 0)):
            steps = len(self._epoch(epoch))
            last = epoch == int(whole)
            self._epoch_starts.append(
                self._epoch_starts[-1] + (math.ceil(steps * part) if last else steps)
            )
            if hyperparameters.max_steps and self._epoch_starts[-1] >= hyperparameters.max_steps:
                break
        planned = self._epoch_starts[-1]
        self.total_steps = min(planned, hyperparameters.max_steps or planned)

    def step(self, number: int) -> Step:
        """The micro-batches of step `number`, counted from 0."""
        epoch = self._epoch_of(number)
        return self._epoch(epoch)[number - self._epoch_starts[epoch]]

    def first_epoch(self) -> Step:
        """The micro-batches of the first epoch, in order."""
        return [micro_batch for step in self._epoch(0) for micro_batch in step]

    def epoch(self, number: int) -> float:
        """Epochs done after `number` steps."""
        if number == 0:
            return 0.0
        epoch = self._epoch_of(number - 1)
        return epoch + (number - self._epoch_starts[epoch]) / len(self._epoch(epoch))

    def _epoch_of(self, number: int) -> int:
        return next(e for e, end in enumerate(self._epoch_starts[1:]) if number < end)

    def _epoch(self, epoch: int) -> list[Step]:
        if epoch not in self._epochs:
            self._epochs = {epoch: _plan_epoch(self._lengths, self._given, epoch=epoch)}
        return self._epochs[epoch]


def _plan_epoch(lengths: Sequence[int], given: Hyperparameters, *, epoch: int) -> list[Step]:
    chance = random.Random(f"{given.seed}:{epoch}")  # noqa: S311 - an order, not a secret
    order = list(range(len(lengths)))
    chance.shuffle(order)
    step_examples = given.batch_size * given.gradient_accumulation
    pool_examples = step_examples * _POOL_STEPS
    steps: list[Step] = []
    micro_batches: list[list[int]] = []
    for start in range(0, len(order), pool_examples):
        pool = sorted(order[start : start + pool_examples], key=lambda i: lengths[i])
        if given.packing:
            micro_batches += _fill_rows(pool, lengths, given.batch_size * given.max_length_tokens)
            continue
        for at in range(0, len(pool), step_examples):
            chosen = pool[at : at + step_examples]
            size = given.batch_size
            steps.append([chosen[i : i + size] for i in range(0, len(chosen), size)])
    if given.packing:
        chance.shuffle(micro_batches)
        size = given.gradient_accumulation
        steps = [micro_batches[i : i + size] for i in range(0, len(micro_batches), size)]
    chance.shuffle(steps)
    return steps


def _fill_rows(pool: list[int], lengths: Sequence[int], limit_tokens: int) -> list[list[int]]:
    """Cut examples sorted by length where rows times the longest would pass the limit."""
    batches: list[list[int]] = [[]]
    for index in pool:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[index] > limit_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def make_batch(examples: Sequence[Example], *, share: bool = False) -> Batch:
    """The tensors of some examples; with `share`, a common beginning is laid out once."""
    shared = _shared_tokens(examples) if share else 0
    rows, longest = len(examples), max(len(example.tokens) for example in examples)
    ids = np.zeros((rows, longest), dtype=np.int64)
    marks = np.zeros((rows, longest), dtype=np.bool_)
    for row, example in enumerate(examples):
        ids[row, : len(example.tokens)] = example.tokens
        marks[row, : len(example.marks)] = example.marks
    targets = ids[marks]
    if shared:
        line = np.concatenate([ids[0, :shared], ids[:, shared:].reshape(-1)])
        labels = np.flatnonzero(marks[:, shared:]) + shared
        ids = line[None]
    else:
        labels = np.flatnonzero(marks)
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(labels - 1),  # a label is never the first of its row
        targets=torch.from_numpy(targets),
        tokens=sum(len(example.tokens) for example in examples),
        rows=rows,
        shared=shared,
    )


def _shared_tokens(examples: Sequence[Example]) -> int:
    """Length of the common beginning worth laying out once, else 0.

    It ends before the place that predicts the first label, and rows stay short enough for
    attention by plain products.
    """
    lengths = [len(example.tokens) for example in examples]
    if len(examples) < 2 or max(lengths) > SHORT_TOKENS:
        return 0
    limit = min(int(example.marks.argmax()) for example in examples) - 1
    if limit < _LEAST_SHARED:
        return 0
    beginnings = np.stack([example.tokens[:limit] for example in examples])
    differing = np.flatnonzero((beginnings != beginnings[0]).any(axis=0))
    shared = int(differing[0]) if len(differing) else limit
    return shared if shared >= _LEAST_SHARED else 0


def eval_batches(lengths: Sequence[int], *, batch_size: int) -> list[list[int]]:
    """Every unit once, longest first, so that too large a batch shows at once."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
