"""One choice on its way from prompt to last token."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from engines.backend import Delta
from engines.builtin.blocks import BLOCK_TOKENS, extend_keys
from engines.builtin.constraint import Constraint
from engines.builtin.detokenizer import Detokenizer, StopFinder
from engines.builtin.lora import Adapter
from engines.builtin.sampling import Chosen, Sampler
from engines.builtin.text import Text
from engines.protocol.errors import failed
from engines.protocol.requests import Sampling
from engines.protocol.responses import TokenLogprob

TOO_COMPLEX = "The format that was asked for became too complex to follow."

logger = logging.getLogger(__name__)


class Answer:
    """What was read and written so far, and what comes next. Owned by the scheduler's thread.

    `tokens` is prompt and answer together; the first `computed` of them are in the cache, in
    `blocks`. One token left to compute means that the next one can be chosen after it.
    """

    def __init__(
        self,
        *,
        ticket: Any,
        index: int,
        choice: int,
        prompt: list[int],
        rules: Sampling,
        max_tokens: int,
        eos_tokens: frozenset[int],
        text: Text,
        priority: int = 0,
        adapter: Adapter | None = None,
        prefix: str = "",
        prompt_logprobs: int | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self._prefix = prefix  # said before anything that is written
        self.prompt_logprobs = prompt_logprobs  # how many alternatives a token; None: not wanted
        self._prompt_tokens = len(prompt)
        self._scored: list[Chosen] = []  # the prompt's tokens but its first, as far as known
        self.adapter = adapter  # whose words these are; None: the base's own
        self.ticket = ticket  # whom it is for; not looked at here
        self.index = index  # among all choices of the request
        self.choice = choice  # among those of its prompt
        self.tokens = list(prompt)
        self.end = len(prompt) + max_tokens  # tokens has at most so many
        self.priority = priority  # lower is sooner
        self.cancelled = False  # set by whoever no longer wants it, on any thread
        # The scheduler's notes.
        self.arrival = 0
        self.preemptions = 0
        self.slot = -1  # not running
        self.computed = 0
        self.blocks: list[int] = []
        self.keys: list[bytes] = []  # of its full blocks, at least those of the prompt
        extend_keys(self.keys, prompt, salt=self.salt)
        self.remembered = 0  # blocks that others may find
        self.cached_tokens = 0  # of the prompt, which somebody else had read
        self._eos_tokens = frozenset(rules.stop_token_ids)
        if constraint is not None or not rules.ignore_eos:
            self._eos_tokens |= eos_tokens
        self._constraint = constraint
        self.sampler = Sampler(
            rules, prompt=prompt, choice=choice, ends=self._eos_tokens, constraint=constraint
        )
        self._text = text
        self._detokenizer = Detokenizer()
        self._stops = StopFinder(rules.stop, keeps=rules.include_stop)
        self._submitted_at = time.monotonic()
        self._begun_at: float | None = None  # when first asked for tokens
        self._is_first = True

    @property
    def salt(self) -> str:
        """Tells whose keys and values these are: equal adapters share them, different ones never."""
        return "" if self.adapter is None else self.adapter.digest

    @property
    def left(self) -> int:
        """Tokens not yet in the cache; at least one."""
        return len(self.tokens) - self.computed

    @property
    def writes(self) -> bool:
        """False for one that ends where its prompt does."""
        return self.end > self._prompt_tokens

    @property
    def scores(self) -> bool:
        """Whether it still has to be told how likely its prompt is: for that it must be read."""
        return self.prompt_logprobs is not None and len(self._scored) < self._prompt_tokens - 1

    @property
    def reusable_keys(self) -> list[bytes]:
        """Of the blocks that it need not read itself if somebody else has."""
        return [] if self.scores else self.keys[: (len(self.tokens) - 1) // BLOCK_TOKENS]

    def prompt_after(self, start: int, count: int) -> list[int]:
        """The prompt's tokens that follow on each of `count` tokens from `start`."""
        return self.tokens[start + 1 : min(start + 1 + count, self._prompt_tokens)]

    def hear(self, start: int, scored: Sequence[Chosen]) -> None:
        """Takes what `prompt_after(start, ...)` was found to be like; twice is fine."""
        self._scored += scored[max(0, len(self._scored) - start) :]

    def ended(self) -> Delta:
        """What a reader gains by a prompt that was read and is all there is."""
        delta = Delta(self.index, finish_reason="length")
        return self._first(delta)

    def next_tokens(self, limit: int) -> list[int]:
        if self._begun_at is None:
            self._begun_at = time.monotonic()
        return self.tokens[self.computed : self.computed + limit]

    def accept(self, chosen: Chosen) -> Delta:
        """Adds a token; says what a reader gains by it, and whether it was the last."""
        self.tokens.append(chosen.token)
        delta = self._gained(chosen)
        return self._first(delta) if self._is_first else delta

    def _first(self, delta: Delta) -> Delta:
        self._is_first = False
        logprobs = (*self._prompt_scores(), *delta.logprobs)
        text = self._prefix + delta.text
        return replace(delta, text=text, logprobs=logprobs, **self._times())

    def _prompt_scores(self) -> Iterator[TokenLogprob]:
        """As vLLM tells them: none for the first, and each token among its own alternatives."""
        if self.prompt_logprobs is None:
            return
        yield TokenLogprob(self._text.named(self.tokens[0]), None)
        for each in self._scored:
            best = self._logprobs(each)[0]
            if all(token != each.token for token, _ in each.alternatives):
                own = TokenLogprob(best.raw, best.logprob)
                best = replace(best, alternatives=(*best.alternatives, own))
            yield best

    def _gained(self, chosen: Chosen) -> Delta:
        if chosen.token in self._eos_tokens:
            # Beside a prompt's tokens the one that ends is told too: readers of both count on one
            # entry for each token of the usage.
            logprobs = () if self.prompt_logprobs is None else self._logprobs(chosen)
            text = self._stops.rest()
            return Delta(self.index, text, 1, logprobs=logprobs, finish_reason="stop")
        text, stopped = self._stops.push(self._detokenizer.push(self._text.raw(chosen.token)))
        reason = None
        if stopped:
            reason = "stop"
        elif self._constraint is not None and (problem := self._constraint.failure):
            logger.warning("an answer's grammar cannot be followed: %s", problem)
            return Delta(self.index, finish_reason="error", error=failed(TOO_COMPLEX))
        elif self._constraint is not None and self._constraint.is_complete:
            text += self._stops.rest()
            reason = "stop"
        elif len(self.tokens) >= self.end:
            text += self._stops.rest()
            reason = "length"
        logprobs = self._logprobs(chosen)
        return Delta(self.index, text, 1, logprobs=logprobs, finish_reason=reason)

    def _times(self) -> dict[str, Any]:
        begun_at = self._begun_at or self._submitted_at
        return {
            "waited_seconds": begun_at - self._submitted_at,
            "prompt_seconds": time.monotonic() - begun_at,
        }

    def _logprobs(self, chosen: Chosen) -> tuple[TokenLogprob, ...]:
        if chosen.logprob is None:
            return ()
        alternatives = tuple(
            TokenLogprob(self._text.named(token), logprob) for token, logprob in chosen.alternatives
        )
        return (TokenLogprob(self._text.named(chosen.token), chosen.logprob, alternatives),)
