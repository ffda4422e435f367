"""Which examples make a step, and the tensors of a micro-batch.

The documents of a micro-batch follow each other on one line and stay apart (`trainer.attention`), so
there is no padding and no token sees another document. A micro-batch is `batch_size` examples;
with `packing` it is `batch_size` rows of `max_length_tokens`, each filled with whole documents, so
that steps of short examples are as large as those of long ones.

Where all documents of a micro-batch begin with the same tokens, that beginning is laid out once:
[shared beginning | document 1 | document 2 ...].
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data import Example
from trainer.spec import Hyperparameters

# Examples are sorted by length within a random pool of this many steps: models whose forward pass
# is not ours pad them to rows, and steps stay mixed.
_POOL_STEPS = 16

_LEAST_SHARED = 8  # below this sharing costs as much as it saves

Step = list[list[int]]  # micro-batches of example numbers


@dataclass(frozen=True)
class Batch:
    """Documents on one line of tokens."""

    ids: torch.Tensor  # [places]: the shared beginning, then each document's own tokens
    lengths: tuple[int, ...]  # of the documents, without the shared beginning
    positions: torch.Tensor  # [labels]: places whose next token is learnt, document by document
    targets: torch.Tensor  # [labels]: those next tokens
    tokens: int  # of the examples, each with its whole beginning
    shared: int = 0  # tokens of the beginning laid out once

    def to(self, device: torch.device) -> Batch:
        return dataclasses.replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            targets=self.targets.to(device),
        )

    def starts(self) -> torch.Tensor:
        """[documents + 1], on the CPU: where each document begins, and where the last one ends."""
        return torch.tensor([self.shared, *self.lengths]).cumsum(0)

    def places(self) -> torch.Tensor:
        """[places]: each token's place in its own example."""
        parts = [torch.arange(self.shared)]
        parts += [torch.arange(self.shared, self.shared + length) for length in self.lengths]
        return torch.cat(parts).to(self.ids.device)

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The documents as rows padded on the right, and the flat positions in those.

        For models that know rows only; causal attention never looks at what comes after.
        """
        if self.shared:
            raise ValueError("a shared beginning has no row of its own")
        starts, longest = self.starts()[:-1].to(self.ids.device), max(self.lengths)
        documents = self.ids.split(self.lengths)
        ids = torch.nn.utils.rnn.pad_sequence(list(documents), batch_first=True)
        row = torch.searchsorted(starts, self.positions, right=True) - 1
        return ids, row * longest + self.positions - starts[row]


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
    if given.packing:  # as many as fill so many steps
        mean = sum(lengths) / len(lengths)
        pool_examples = math.ceil(pool_examples * given.max_length_tokens / mean)
    steps: list[Step] = []
    micro_batches: list[list[int]] = []
    for start in range(0, len(order), pool_examples):
        pool = sorted(order[start : start + pool_examples], key=lambda i: lengths[i])
        if given.packing:
            rows = _fill_rows(pool, lengths, given.max_length_tokens)
            chance.shuffle(rows)
            for at in range(0, len(rows), given.batch_size):
                some = rows[at : at + given.batch_size]
                micro_batches += [[index for row in some for index in row]]
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
    """Rows of whole examples: the longest first, each to where it leaves least room.

    `pool` is sorted by length. An example longer than the limit (several answers make one) has a
    row of its own.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in reversed(pool):
        at = bisect.bisect_left(rooms, (lengths[index], -1))
        if at < len(rooms):
            left, row = rooms.pop(at)
            rows[row].append(index)
        else:
            left, row = limit_tokens, len(rows)
            rows.append([index])
        bisect.insort(rooms, (left - lengths[index], row))
    return rows


def make_batch(examples: Sequence[Example], *, share: bool = False) -> Batch:
    """The tensors of some examples; with `share`, a common beginning is laid out once."""
    shared = _shared_tokens(examples) if share else 0
    pieces = [examples[0].tokens[:shared], *(example.tokens[shared:] for example in examples)]
    ids = np.concatenate(pieces).astype(np.int64)
    marks = np.concatenate([np.zeros(shared, np.bool_), *(e.marks[shared:] for e in examples)])
    labels = np.flatnonzero(marks)
    return Batch(
        ids=torch.from_numpy(ids),
        lengths=tuple(len(example.tokens) - shared for example in examples),
        positions=torch.from_numpy(labels - 1),  # a label is never the first of its document
        targets=torch.from_numpy(ids[labels]),
        tokens=sum(len(example.tokens) for example in examples),
        shared=shared,
    )


def _shared_tokens(examples: Sequence[Example]) -> int:
    """Length of the common beginning worth laying out once, else 0.

    It ends before the place that predicts the first label.
    """
    if len(examples) < 2:
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
