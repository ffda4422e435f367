"""From logits to tokens: each sequence by its own rules and its own dice.

Order: logprobs from the raw logits; then bias and penalties, temperature, top_k, top_p over what
top_k left, min_p; then one draw. A draw takes one random number from the sequence's own seeded
generator, so a seeded answer does not depend on who shares the batch (but for the rounding of
the logits themselves, which in 16-bit types may differ with the batch's size).
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engines.protocol.requests import Sampling

CANDIDATES = 1024  # looked at before sorting a whole vocabulary for top_p or min_p alone


@dataclass(frozen=True, slots=True)
class Chosen:
    """One token; logprob and alternatives (best first) only where they were asked for."""

    token: int
    logprob: float | None = None
    alternatives: Sequence[tuple[int, float]] = ()


class Sampler:
    """One sequence's rules and what it needs to remember to apply them."""

    def __init__(self, rules: Sampling, *, prompt: Sequence[int], choice: int) -> None:
        self.rules = rules
        # Choices of one seeded request must differ, and be the same when asked again.
        self._dice = random.Random(None if rules.seed is None else f"{rules.seed}/{choice}")  # noqa: S311
        self._drawn: float | None = None
        self._counts: Counter[int] = Counter()
        self._prompt = frozenset(prompt) if rules.repetition_penalty != 1.0 else frozenset()
        penalties = rules.presence_penalty or rules.frequency_penalty
        self._penalizes = bool(penalties) or rules.repetition_penalty != 1.0

    @property
    def is_greedy(self) -> bool:
        return self.rules.temperature < 1e-5

    @property
    def adjusts(self) -> bool:
        return self._penalizes or bool(self.rules.logit_bias)

    def adjust(self, row: torch.Tensor) -> None:
        """Applies penalties and bias to one row of logits, in place."""
        rules = self.rules
        if rules.repetition_penalty != 1.0 and (seen := self._prompt | self._counts.keys()):
            ids = torch.tensor(list(seen), device=row.device)
            values = row[ids]
            smaller = torch.where(
                values > 0, values / rules.repetition_penalty, values * rules.repetition_penalty
            )
            row[ids] = smaller
        if self._counts and (rules.presence_penalty or rules.frequency_penalty):
            ids = torch.tensor(list(self._counts), device=row.device)
            counts = torch.tensor(list(self._counts.values()), dtype=row.dtype, device=row.device)
            row[ids] -= rules.presence_penalty + rules.frequency_penalty * counts
        if rules.logit_bias:
            ids = torch.tensor(list(rules.logit_bias), device=row.device)
            row[ids] += torch.tensor(
                list(rules.logit_bias.values()), dtype=row.dtype, device=row.device
            )

    def draw(self) -> float:
        """The random number for the coming token, in [0, 1); the same until it is seen."""
        if self._drawn is None:
            self._drawn = self._dice.random()
        return self._drawn

    def saw(self, token: int) -> None:
        self._drawn = None
        if self._penalizes:
            self._counts[token] += 1


def choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Chosen]:
    """One token for each row of float32 [rows, vocabulary]; the logits are used up."""
    with torch.inference_mode():
        return _choose(logits, samplers)


def _choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Chosen]:
    wanting = [i for i, each in enumerate(samplers) if each.rules.logprobs is not None]
    raw = torch.log_softmax(logits[wanting], dim=-1) if wanting else None
    for index, sampler in enumerate(samplers):
        if sampler.adjusts:
            sampler.adjust(logits[index])
    tokens: list[int]
    if all(sampler.is_greedy for sampler in samplers):
        tokens = logits.max(dim=-1).indices.tolist()
    else:
        tokens = _sample(logits, samplers)
    for token, sampler in zip(tokens, samplers, strict=True):
        sampler.saw(token)
    chosen = [Chosen(token) for token in tokens]
    if raw is not None:
        for row, index in enumerate(wanting):
            chosen[index] = _explained(raw[row], tokens[index], samplers[index].rules.logprobs or 0)
    return chosen


def _explained(row: torch.Tensor, token: int, alternatives: int) -> Chosen:
    if not alternatives:
        return Chosen(token, float(row[token]))
    values, ids = row.topk(min(alternatives, len(row)))
    pairs = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Chosen(token, float(row[token]), pairs)


def _sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Rows are dealt by kind: the best token, any token, or one of the likeliest."""
    tokens = [0] * len(samplers)
    greedy, free, cut = [], [], []
    for index, sampler in enumerate(samplers):
        rules = sampler.rules
        if sampler.is_greedy:
            greedy.append(index)
        elif rules.top_k or rules.top_p < 1 or rules.min_p:
            cut.append(index)
        else:
            free.append(index)
    if greedy:
        best = logits[greedy].max(dim=-1).indices.tolist()
        for index, token in zip(greedy, best, strict=True):
            tokens[index] = token
    if free:
        own = [samplers[index] for index in free]
        weights = torch.softmax(_scaled(logits[free], own), dim=-1)
        picks = _pick(weights, [each.draw() for each in own])
        for index, token in zip(free, picks.tolist(), strict=True):
            tokens[index] = token
    if cut:
        own = [samplers[index] for index in cut]
        draws = [each.draw() for each in own]
        for index, token in zip(cut, _sample_cut(logits[cut], own, draws), strict=True):
            tokens[index] = token
    return tokens


def _sample_cut(
    logits: torch.Tensor, samplers: Sequence[Sampler], draws: Sequence[float]
) -> list[int]:
    """Draws among the likeliest tokens; sorts a whole row only if its first ones do not suffice."""
    vocabulary = logits.shape[-1]
    scaled = _scaled(logits, samplers)
    reach = max(each.rules.top_k or CANDIDATES for each in samplers)
    reach = min(reach, vocabulary)
    values, ids = scaled.topk(reach)
    kept, enough = _kept(values, scaled, samplers, reach == vocabulary)
    picks = _pick(kept, draws)
    tokens: list[int] = ids.gather(1, picks[:, None])[:, 0].tolist()
    for row in [row for row, whole in enumerate(enough) if not whole]:
        one = slice(row, row + 1)
        values, order = scaled[one].sort(dim=-1, descending=True)
        kept, _ = _kept(values, scaled[one], samplers[one], True)
        tokens[row] = int(order[0, _pick(kept, draws[one])[0]])
    return tokens


def _kept(
    values: torch.Tensor, scaled: torch.Tensor, samplers: Sequence[Sampler], whole: bool
) -> tuple[torch.Tensor, list[bool]]:
    """Weights of the candidates (sorted, best first) that survive; and which rows are certain.

    A row is not certain if a token beyond its candidates might have survived too.
    """

    def column(numbers: Sequence[float]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=values.dtype, device=values.device)[:, None]

    reach = values.shape[-1]
    top_k = column([each.rules.top_k or scaled.shape[-1] for each in samplers])
    top_p = column([each.rules.top_p for each in samplers])
    min_p = column([each.rules.min_p for each in samplers])
    within = torch.arange(reach, device=values.device) < top_k
    everything = scaled.logsumexp(dim=-1, keepdim=True)
    among_k = values.masked_fill(~within, -torch.inf).logsumexp(dim=-1, keepdim=True)
    limited = column([float(each.rules.top_k > 0) for each in samplers]) > 0
    weights = (values - torch.where(limited, among_k, everything)).exp()
    reached = weights.cumsum(dim=-1)
    survive = within & (reached - weights < top_p) & (weights >= min_p * weights[:, :1])
    survive[:, 0] = True
    certain = (~survive[:, -1:] | limited).flatten().tolist()
    return weights * survive, [whole or each for each in certain]


def _scaled(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    temperatures = torch.tensor(
        [each.rules.temperature for each in samplers], dtype=logits.dtype, device=logits.device
    )
    return logits / temperatures[:, None]


def _pick(weights: torch.Tensor, draws: Sequence[float]) -> torch.Tensor:
    """For each row, the column where its draw falls among the weights."""
    reached = weights.double().cumsum(dim=-1)
    marks = torch.tensor(draws, dtype=torch.float64, device=weights.device)
    marks = (marks * reached[:, -1])[:, None]
    return torch.searchsorted(reached, marks, right=True)[:, 0].clamp_(max=weights.shape[-1] - 1)
