"""From logits to tokens: each sequence by its own rules and its own dice.

Order: logprobs from the raw logits; then penalties, bias and the grammar's mask, temperature,
top_k, top_p over what top_k left, min_p; then one draw. A draw takes one random number from the
sequence's own seeded generator, so a seeded answer does not depend on who shares the batch. The
rounding of the logits themselves does, and two tokens may change places in their order by it:
draws go by the tokens' ids, never by their places.

Rows that want nothing but the best token never leave the type they came in.
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engines.builtin.constraint import Constraint
from engines.protocol.requests import Sampling

CANDIDATES = (256, 4096)  # looked at, in turn, before sorting a whole row for top_p or min_p alone
BLOCK = 64  # of a row: the best of each shows where the best of all are
STRIDE = 128  # of a row: sums of so many race before single tokens do


@dataclass(frozen=True, slots=True)
class Chosen:
    """One token; logprob and alternatives (best first) only where they were asked for."""

    token: int
    logprob: float | None = None
    alternatives: Sequence[tuple[int, float]] = ()
    vector: bytes = b""  # instead of a token, where the row was not of logits: float32


class Sampler:
    """One sequence's rules and what it needs to remember to apply them."""

    reads_only = False  # its rows are hidden states; so are all rows of such a model

    def __init__(
        self,
        rules: Sampling,
        *,
        prompt: Sequence[int],
        choice: int,
        ends: Collection[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        """`ends` are the tokens that end the answer, which `min_tokens` holds back. A constraint
        knows better when an answer may end: with one, `min_tokens` does nothing."""
        self.rules = rules
        self.constraint = constraint
        # Choices of one seeded request must differ, and be the same when asked again.
        self._dice = random.Random(None if rules.seed is None else f"{rules.seed}/{choice}")  # noqa: S311
        self._drawn: float | None = None
        penalties = rules.presence_penalty or rules.frequency_penalty
        penalizes = bool(penalties) or rules.repetition_penalty != 1.0
        seen = set(prompt) if rules.repetition_penalty != 1.0 else ()
        self.tally = _Tally(seen) if penalizes else None
        self._bias = _Bias(rules.logit_bias) if rules.logit_bias else None
        self._ends = _Bias(dict.fromkeys(ends, -np.inf)) if ends and not constraint else None
        self._to_write = rules.min_tokens  # before it may end

    @property
    def is_greedy(self) -> bool:
        return self.rules.temperature < 1e-5

    @property
    def is_plain(self) -> bool:
        """It wants the best token and nothing else."""
        return (
            self.is_greedy
            and self.rules.logprobs is None
            and self.tally is None
            and self.constraint is None
            and next(iter(self.biases()), None) is None
        )

    def biases(self) -> "Iterable[_Bias]":
        """What is added to its logits this time."""
        if self._bias is not None:
            yield self._bias
        if self._to_write > 0 and self._ends is not None:
            yield self._ends

    def draw(self) -> float:
        """The random number for the coming token, in [0, 1); the same until it is seen."""
        if self._drawn is None:
            self._drawn = self._dice.random()
        return self._drawn

    def saw(self, token: int) -> None:
        self._drawn = None
        self._to_write -= 1
        if self.tally is not None:
            self.tally.add(token)
        if self.constraint is not None:
            self.constraint.take(token)


class _Bias:
    """Numbers to add to some tokens' logits."""

    def __init__(self, values: Mapping[int, float]) -> None:
        self.ids = np.fromiter(values.keys(), dtype=np.int64, count=len(values))
        self.values = np.fromiter(values.values(), dtype=np.float32, count=len(values))


class _Tally:
    """How often each token was written; those only read count as none."""

    def __init__(self, read: Collection[int]) -> None:
        self._places = {token: place for place, token in enumerate(read)}
        room = 2 * len(self._places) + 64
        self._ids = np.zeros(room, dtype=np.int64)
        self._ids[: len(self._places)] = list(self._places)
        self._counts = np.zeros(room, dtype=np.float32)

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token
        self._counts[place] += 1

    @property
    def ids(self) -> NDArray[np.int64]:
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float32]:
        return self._counts[: len(self._places)]


def choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Chosen]:
    """One token for each row of [rows, vocabulary], of any floating type; the logits are used up."""
    if samplers and samplers[0].reads_only:
        return [Chosen(-1, vector=row.numpy().tobytes()) for row in logits.float().cpu()]
    with torch.inference_mode():
        rich = [row for row, each in enumerate(samplers) if not each.is_plain]
        if not rich:
            chosen = [Chosen(token) for token in logits.max(dim=-1).indices.tolist()]
        elif len(rich) == len(samplers):
            chosen = _choose(logits.float(), samplers)
        else:
            own = _choose(logits[rich].float(), [samplers[row] for row in rich])
            chosen = [Chosen(token) for token in logits.max(dim=-1).indices.tolist()]
            for row, each in zip(rich, own, strict=True):
                chosen[row] = each
    for each, sampler in zip(chosen, samplers, strict=True):
        sampler.saw(each.token)
    return chosen


def _choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Chosen]:
    wanting = [row for row, each in enumerate(samplers) if each.rules.logprobs is not None]
    raw = torch.log_softmax(logits[wanting], dim=-1) if wanting else None
    _penalize(logits, samplers)
    _add_bias(logits, samplers)
    _mask(logits, samplers)
    tokens = _sample(logits, samplers)
    chosen = [Chosen(token) for token in tokens]
    if raw is not None:
        explained = explain(
            raw,
            [tokens[row] for row in wanting],
            [samplers[row].rules.logprobs or 0 for row in wanting],
        )
        for row, each in zip(wanting, explained, strict=True):
            chosen[row] = each
    return chosen


def _penalize(logits: torch.Tensor, samplers: Sequence[Sampler]) -> None:
    """Repetition first, over what was read and written; then presence and frequency."""
    own = [(row, each.tally, each.rules) for row, each in enumerate(samplers) if each.tally]
    sizes = [len(tally.ids) for _, tally, _ in own]
    if not sum(sizes):
        return

    def spread(values: Sequence[float]) -> torch.Tensor:
        column = np.repeat(np.asarray(values, dtype=np.float32), sizes)
        return torch.from_numpy(column).to(logits.device)

    rows = torch.from_numpy(np.repeat([row for row, _, _ in own], sizes)).to(logits.device)
    ids = torch.from_numpy(np.concatenate([tally.ids for _, tally, _ in own])).to(logits.device)
    counts = np.concatenate([tally.counts for _, tally, _ in own])
    written = torch.from_numpy(counts).to(logits.device)
    repetition = spread([rules.repetition_penalty for _, _, rules in own])
    presence = spread([rules.presence_penalty for _, _, rules in own])
    frequency = spread([rules.frequency_penalty for _, _, rules in own])
    values = logits[rows, ids]
    values = torch.where(values > 0, values / repetition, values * repetition)
    logits[rows, ids] = values - presence * (written > 0) - frequency * written


def _add_bias(logits: torch.Tensor, samplers: Sequence[Sampler]) -> None:
    own = [(row, bias) for row, each in enumerate(samplers) for bias in each.biases()]
    if not own:
        return
    sizes = [len(bias.ids) for _, bias in own]
    rows = torch.from_numpy(np.repeat([row for row, _ in own], sizes)).to(logits.device)
    ids = torch.from_numpy(np.concatenate([bias.ids for _, bias in own])).to(logits.device)
    values = torch.from_numpy(np.concatenate([bias.values for _, bias in own]))
    logits.index_put_((rows, ids), values.to(logits.device), accumulate=True)


def _mask(logits: torch.Tensor, samplers: Sequence[Sampler]) -> None:
    """Leaves each constrained row the tokens that its grammar allows."""
    own = [(row, each.constraint) for row, each in enumerate(samplers) if each.constraint]
    if not own:
        return
    vocabulary = logits.shape[-1]
    words = np.zeros((len(own), (vocabulary + 31) // 32), dtype=np.int32)
    for place, (_, constraint) in enumerate(own):
        constraint.fill(words[place])
    allowed = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :vocabulary]
    forbidden = torch.from_numpy(allowed == 0).to(logits.device)
    rows = [row for row, _ in own]
    logits[rows] = logits[rows].masked_fill_(forbidden, -torch.inf)


def explain(raw: torch.Tensor, tokens: Sequence[int], alternatives: Sequence[int]) -> list[Chosen]:
    """Each row's token with its log-probability, and so many of the likeliest, from the rows of
    log-probabilities."""
    picked = raw.gather(1, torch.tensor(tokens, device=raw.device)[:, None])[:, 0].tolist()
    most = min(max(alternatives), raw.shape[-1])
    if not most:
        return [Chosen(token, logprob) for token, logprob in zip(tokens, picked, strict=True)]
    values, ids = _largest(raw, most)
    pairs = [
        list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    return [
        Chosen(token, logprob, tuple(best[:count]))
        for token, logprob, best, count in zip(tokens, picked, pairs, alternatives, strict=True)
    ]


def _sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Rows are dealt by kind: the best token, any token, or one of the likeliest."""
    greedy, free = [], []
    cut: dict[int, list[int]] = {}  # by top_k, that no row's candidates depend on its neighbours
    for row, sampler in enumerate(samplers):
        rules = sampler.rules
        if sampler.is_greedy:
            greedy.append(row)
        elif rules.top_k or rules.top_p < 1 or rules.min_p:
            cut.setdefault(rules.top_k, []).append(row)
        else:
            free.append(row)
    tokens = [0] * len(samplers)

    def deal(rows: list[int], picks: list[int]) -> None:
        for row, token in zip(rows, picks, strict=True):
            tokens[row] = token

    if greedy:
        deal(greedy, _rows(logits, greedy).max(dim=-1).indices.tolist())
    if free:
        own = [samplers[row] for row in free]
        weights = torch.softmax(_scaled(_rows(logits, free), own), dim=-1)
        deal(free, _race_anywhere(weights, [each.draw() for each in own])[:, 0].tolist())
    for top_k, rows in cut.items():
        own = [samplers[row] for row in rows]
        draws = [each.draw() for each in own]
        scaled = _scaled(_rows(logits, rows), own)
        deal(rows, _sample_cut(scaled, own, draws, top_k=top_k))
    return tokens


def _rows(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return logits if len(rows) == len(logits) else logits[rows]


def _sample_cut(
    scaled: torch.Tensor, samplers: Sequence[Sampler], draws: Sequence[float], *, top_k: int
) -> list[int]:
    """Draws among the likeliest tokens; looks at more of a row only if its first do not suffice."""
    vocabulary = scaled.shape[-1]
    tokens = [0] * len(samplers)
    left = list(range(len(samplers)))
    for reach in [top_k] if top_k else [*CANDIDATES, vocabulary]:
        values, ids = _largest(scaled[left], min(reach, vocabulary))
        own = [samplers[row] for row in left]
        kept, certain = _kept(values, scaled[left], own)
        picks = _race(kept, ids, [draws[row] for row in left])
        found = ids.gather(1, picks)[:, 0].tolist()
        for row, token in zip(left, found, strict=True):
            tokens[row] = token  # of a row that is looked at again, only the last counts
        left = [row for row, enough in zip(left, certain, strict=True) if not enough]
        if not left:
            break
    return tokens


def _kept(
    values: torch.Tensor, scaled: torch.Tensor, samplers: Sequence[Sampler]
) -> tuple[torch.Tensor, list[bool]]:
    """Weights of the candidates (sorted, best first) that survive; and which rows are certain.

    A row is not certain if a token beyond its candidates might have survived too. Candidates of
    rows with a top_k are all that they may choose from.
    """

    def column(numbers: Sequence[float]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=values.dtype, device=values.device)[:, None]

    is_all = bool(samplers[0].rules.top_k) or values.shape[-1] == scaled.shape[-1]
    total = (values if is_all else scaled).logsumexp(dim=-1, keepdim=True)
    weights = (values - total).exp()
    top_p = column([each.rules.top_p for each in samplers])
    min_p = column([each.rules.min_p for each in samplers])
    reached = weights.cumsum(dim=-1)
    survive = (reached - weights < top_p) & (weights >= min_p * weights[:, :1])
    survive[:, 0] = True
    certain = [True] * len(samplers) if is_all else (~survive[:, -1]).tolist()
    return weights * survive, certain


def _scaled(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    temperatures = torch.tensor(
        [each.rules.temperature for each in samplers], dtype=logits.dtype, device=logits.device
    )
    return logits / temperatures[:, None]


def _largest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `topk`, several times faster for few of many: they lie in the blocks of the largest."""
    rows, width = values.shape
    if width % BLOCK or count * BLOCK * 4 > width:
        found = values.topk(count)
        return found.values, found.indices
    blocks = values.view(rows, -1, BLOCK)
    best = blocks.amax(dim=-1).topk(count).indices
    candidates = blocks.gather(1, best[..., None].expand(-1, -1, BLOCK)).flatten(1)
    found = candidates.topk(count)
    return found.values, best.gather(1, found.indices // BLOCK) * BLOCK + found.indices % BLOCK


def _race(weights: torch.Tensor, ids: torch.Tensor, draws: Sequence[float]) -> torch.Tensor:
    """For each row, the column of a token drawn by the weights: [rows, 1].

    Every token runs for a time of its own, exponential with its weight as the rate, and the first
    to arrive is drawn (with the probability of its weight). Only the draw and the token's id say
    what time it gets, so that neither its place nor who else survives matters to the others.
    """
    keys = torch.tensor([int(draw * 2**53) for draw in draws], device=ids.device)[:, None]
    luck = _mixed(ids + _mixed(keys))
    uniform = ((luck >> 11 & (1 << 53) - 1).double() + 0.5) * 2.0**-53
    return (weights.double() / -uniform.log()).argmax(dim=-1, keepdim=True)


def _mixed(values: torch.Tensor) -> torch.Tensor:
    """A hash of 64-bit integers, all bits of which depend on all bits: SplitMix64's last steps
    (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", figure 16)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        values = (values ^ (values >> shift & (1 << 64 - shift) - 1)) * factor
    return values ^ (values >> 31 & (1 << 33) - 1)


def _race_anywhere(weights: torch.Tensor, draws: Sequence[float]) -> torch.Tensor:
    """As `_race`, for whole rows: first between stretches of tokens, then within the winner."""
    rows, width = weights.shape
    if width % STRIDE:
        weights = torch.nn.functional.pad(weights, (0, STRIDE - width % STRIDE))
    stretches = weights.view(rows, -1, STRIDE)
    names = -1 - torch.arange(stretches.shape[1], device=weights.device)  # no token's id
    winner = _race(stretches.sum(dim=-1), names.expand(rows, -1), draws)
    inside = stretches.gather(1, winner[..., None].expand(-1, -1, STRIDE))[:, 0]
    ids = winner * STRIDE + torch.arange(STRIDE, device=weights.device)
    return ids.gather(1, _race(inside, ids, draws))
