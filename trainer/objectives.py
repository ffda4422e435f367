"""What a run minimizes: canonical lines become examples, examples a batch, a batch a loss.

A **unit** is what counts as one in a batch: a conversation, a pair of answers, an answer with its
label. Losses are sums over units (over labels for sft) divided by the whole step's, so micro-batches
add up to the step they are parts of.

Preference methods compare with the model as it was before the first step. Its log-probabilities of
all answers are computed once and kept beside the checkpoints (`trainer.reference`).

    dpo   Rafailov et al. 2023, eq. 7: -log sigmoid(beta * (chosen - rejected)), each the difference
          of log-probabilities to the reference; label smoothing mixes in the loss of the pair turned
          round (Mitchell 2023, conservative DPO)
    kto   Ethayarajh et al. 2024, eq. 8: 1 - sigmoid(beta * (ratio - z)) for a desirable answer,
          1 - sigmoid(beta * (z - ratio)) for another. z, the KL term, is the mean ratio of answers
          given to another's prompt, not below 0, and has no gradient.

Both give TRL's DPOTrainer's and KTOTrainer's losses (docs/decisions/0008-preference-losses.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from trainer.batches import Batch, make_batch
from trainer.data import Example, TokenSet, tokenize_file
from trainer.model import Loaded
from trainer.spec import TrainSpec

# name: sum, and of how many; a sum may still be a tensor, so that nobody waits for a device
Sums = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Work:
    """One micro-batch. `rows` are the answers whose log-probabilities count, in order."""

    batch: Batch
    weight: int  # what it counts for in the step's divisor
    labels: tuple[int, ...] = ()  # of each row
    reference: torch.Tensor | None = None  # [rows] log-probabilities before the first step
    desirable: torch.Tensor | None = None  # [rows]
    unmatched: tuple[Work, ...] = ()  # the same answers after other prompts
    kl: torch.Tensor | None = None  # kto: the micro-batch's term, once it is known

    @property
    def tokens(self) -> int:
        return self.batch.tokens

    def to(self, device: torch.device) -> Work:
        return dataclasses.replace(
            self,
            batch=self.batch.to(device),
            reference=None if self.reference is None else self.reference.to(device),
            desirable=None if self.desirable is None else self.desirable.to(device),
            unmatched=tuple(each.to(device) for each in self.unmatched),
        )


class Objective(Protocol):
    """One method. Reading and batching touch no model; `loss` needs what `compared` tells."""

    @property
    def compares(self) -> bool:
        """With the model before the first step; see `trainer.reference`."""
        ...

    @property
    def told(self) -> tuple[str, ...]:
        """Names of what `loss` tells beside the loss."""
        ...

    def read(self, path: Path, tokenizer: Any) -> TokenSet:
        """All units of a jsonl file; raises TrainingFailure(bad_data) naming the line."""
        ...

    def unmatched(self, data: TokenSet, micro_batches: Iterable[Sequence[int]]) -> list[Example]:
        """Answers to be compared after other prompts, one a unit; none for most methods."""
        ...

    def make(self, data: TokenSet, units: Sequence[int], *, share: bool) -> Work: ...

    def joined(self, loaded: Loaded, parts: Sequence[Work]) -> Sequence[Work]:
        """The parts that memory forced one micro-batch into, each with what it has to know of the
        others; needed where there is more than one."""
        ...

    def loss(self, loaded: Loaded, work: Work, *, divisor: float) -> tuple[torch.Tensor, Sums]:
        """The micro-batch's part of the step's loss, and sums of what else is told of it."""
        ...


def of(spec: TrainSpec) -> Objective:
    given = spec.hyperparameters
    limit = given.max_length_tokens
    match spec.method:
        case "dpo":
            return Dpo(limit, beta=given.beta, smoothing=given.label_smoothing)
        case "kto":
            weights = (given.undesirable_weight, given.desirable_weight)
            return Kto(limit, beta=given.beta, weights=weights)
        case _:
            return Sft(limit)


@dataclass(frozen=True)
class Sft:
    """Cross entropy of the assistant's tokens."""

    max_length_tokens: int
    compares: bool = False
    told: tuple[str, ...] = ("token_accuracy",)

    def read(self, path: Path, tokenizer: Any) -> TokenSet:
        return tokenize_file(path, tokenizer, max_length_tokens=self.max_length_tokens)

    def unmatched(self, data: TokenSet, micro_batches: Iterable[Sequence[int]]) -> list[Example]:
        return []

    def make(self, data: TokenSet, units: Sequence[int], *, share: bool) -> Work:
        batch = make_batch(data.examples_of(units), share=share)
        return Work(batch, weight=len(batch.targets))

    def joined(self, loaded: Loaded, parts: Sequence[Work]) -> Sequence[Work]:
        return parts

    def loss(self, loaded: Loaded, work: Work, *, divisor: float) -> tuple[torch.Tensor, Sums]:
        loss, hits = loaded.scored(work.batch, divisor=divisor)
        return loss, {"token_accuracy": (hits, float(work.weight))}


@dataclass(frozen=True)
class Dpo:
    """A preferred answer against one that is not."""

    max_length_tokens: int
    beta: float
    smoothing: float = 0.0
    compares: bool = True
    told: tuple[str, ...] = (
        "reward_chosen",
        "reward_rejected",
        "reward_margin",
        "reward_accuracy",
    )

    def read(self, path: Path, tokenizer: Any) -> TokenSet:
        limit = self.max_length_tokens
        return tokenize_file(path, tokenizer, max_length_tokens=limit, kind="preference")

    def unmatched(self, data: TokenSet, micro_batches: Iterable[Sequence[int]]) -> list[Example]:
        return []

    def make(self, data: TokenSet, units: Sequence[int], *, share: bool) -> Work:
        work = rows_of(data.examples_of(units), share=share)
        pairs = [each for unit in units for each in (2 * unit, 2 * unit + 1)]
        return dataclasses.replace(
            work, weight=len(units), reference=_chosen_from(data.reference, pairs)
        )

    def joined(self, loaded: Loaded, parts: Sequence[Work]) -> Sequence[Work]:
        return parts

    def loss(self, loaded: Loaded, work: Work, *, divisor: float) -> tuple[torch.Tensor, Sums]:
        ratios = self.beta * (answer_log_probabilities(loaded, work) - work.reference)
        chosen, rejected = ratios[0::2], ratios[1::2]
        margin = chosen - rejected
        losses = -(1 - self.smoothing) * logsigmoid(margin) - self.smoothing * logsigmoid(-margin)
        pairs = float(len(margin))
        return losses.sum() / divisor, {
            "reward_chosen": (_total(chosen), pairs),
            "reward_rejected": (_total(rejected), pairs),
            "reward_margin": (_total(margin), pairs),
            "reward_accuracy": ((margin > 0).sum(), pairs),
        }


@dataclass(frozen=True)
class Kto:
    """Answers that are each desirable or not."""

    max_length_tokens: int
    beta: float
    weights: tuple[float, float] = (1.0, 1.0)  # of undesirable and desirable answers
    compares: bool = True
    told: tuple[str, ...] = ("reward_chosen", "reward_rejected", "kl")

    def read(self, path: Path, tokenizer: Any) -> TokenSet:
        limit = self.max_length_tokens
        return tokenize_file(path, tokenizer, max_length_tokens=limit, kind="label")

    def unmatched(self, data: TokenSet, micro_batches: Iterable[Sequence[int]]) -> list[Example]:
        """Within a micro-batch each prompt gets the answer of the one before it, the first the
        last one's. One that is alone gets the answer of the micro-batch before."""
        giver = list(range(-1, len(data.examples) - 1))
        last = -1
        for units in micro_batches:
            for place, unit in enumerate(units):
                giver[unit] = units[place - 1] if len(units) > 1 else last
            last = units[-1]
        return [
            _joined(data.examples[to], data.examples[giving], self.max_length_tokens)
            for to, giving in enumerate(giver)
        ]

    def make(self, data: TokenSet, units: Sequence[int], *, share: bool) -> Work:
        work = rows_of(data.examples_of(units), share=share)
        other = dataclasses.replace(
            rows_of([data.unmatched[unit] for unit in units], share=share),
            reference=_chosen_from(data.unmatched_reference, units),
        )
        return dataclasses.replace(
            work,
            weight=len(units),
            reference=_chosen_from(data.reference, units),
            desirable=torch.tensor([data.desirable[unit] for unit in units]),
            unmatched=(other,),
        )

    def joined(self, loaded: Loaded, parts: Sequence[Work]) -> Sequence[Work]:
        kl = self._kl(loaded, parts)
        return [dataclasses.replace(part, kl=kl, unmatched=()) for part in parts]

    def _kl(self, loaded: Loaded, parts: Sequence[Work]) -> torch.Tensor:
        """Of all answers of a micro-batch together, whatever parts it is in."""
        others = [other for part in parts for other in part.unmatched]
        with torch.no_grad():
            each = [answer_log_probabilities(loaded, other) - other.reference for other in others]
            return torch.cat(each).mean().clamp(min=0)

    def loss(self, loaded: Loaded, work: Work, *, divisor: float) -> tuple[torch.Tensor, Sums]:
        good = cast(torch.Tensor, work.desirable)  # as made above
        kl = self._kl(loaded, [work]) if work.kl is None else work.kl
        ratios = answer_log_probabilities(loaded, work) - work.reference
        sign = torch.where(good, 1.0, -1.0)
        weight = torch.where(good, self.weights[1], self.weights[0])
        losses = weight * (1 - torch.sigmoid(self.beta * sign * (ratios - kl)))
        rewards = self.beta * ratios.detach()
        return losses.sum() / divisor, {
            "reward_chosen": (_total(rewards[good]), good.sum()),
            "reward_rejected": (_total(rewards[~good]), (~good).sum()),
            "kl": (kl * len(ratios), float(len(ratios))),
        }


class Tally:
    """Sums over the micro-batches since the last line of progress."""

    def __init__(self, kept: Sums | None = None) -> None:
        self._sums = {
            name: [float(total), float(count)] for name, (total, count) in (kept or {}).items()
        }

    def add(self, sums: Sums) -> None:
        for name, (total, count) in sums.items():
            kept = self._sums.setdefault(name, [0.0, 0.0])
            kept[0] += float(total)
            kept[1] += float(count)

    def sums(self) -> dict[str, list[float]]:
        return self._sums

    def means(self) -> dict[str, float]:
        found = {name: total / count for name, (total, count) in self._sums.items() if count}
        if "reward_margin" not in found and {"reward_chosen", "reward_rejected"} <= found.keys():
            found["reward_margin"] = found["reward_chosen"] - found["reward_rejected"]
        return {name: round(value, 6) for name, value in found.items() if math.isfinite(value)}


def rows_of(examples: Sequence[Example], *, share: bool) -> Work:
    """Examples whose answers' log-probabilities are wanted one by one."""
    batch = make_batch(examples, share=share)
    labels = tuple(int(example.marks.sum()) for example in examples)
    return Work(batch, weight=len(examples), labels=labels)


def answer_log_probabilities(loaded: Loaded, work: Work) -> torch.Tensor:
    """[rows], float32: the summed log-probabilities of each row's labels."""
    single = loaded.log_probabilities(work.batch)
    counts = torch.tensor(work.labels, device=single.device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=single.device), counts)
    return torch.zeros(len(counts), device=single.device).index_add(0, owner, single)


def _joined(prompt: Example, answer: Example, limit: int) -> Example:
    """One example's prompt with the other's answer."""
    begin, given = int(prompt.marks.argmax()), int(answer.marks.argmax())
    tokens = np.concatenate([prompt.tokens[:begin], answer.tokens[given:]])[:limit]
    marks = np.concatenate([prompt.marks[:begin], answer.marks[given:]])[:limit]
    return Example(tokens, marks)


def _chosen_from(values: torch.Tensor | None, places: Sequence[int]) -> torch.Tensor | None:
    return None if values is None else values[list(places)]


def _total(values: torch.Tensor) -> torch.Tensor:
    return values.detach().sum()
