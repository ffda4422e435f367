"""What the HTTP server asks of whatever makes the tokens, real or fake."""

import asyncio
import enum
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engines.adapters import Adapters
from engines.protocol.dialect import Dialect
from engines.protocol.embeddings import EmbeddingRequest
from engines.protocol.errors import ApiError
from engines.protocol.requests import Request, Sampling
from engines.protocol.responses import TokenLogprob


class Status(enum.StrEnum):
    LOADING = "loading"
    READY = "ok"
    STALLED = "stalled"  # a step has taken so long that it may never end


class HungUp(Exception):
    """Nobody waits for this answer any more."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one choice gained: some text, the tokens behind it, or its end."""

    index: int
    text: str = ""
    tokens: int = 0  # how many of the answer's are behind it
    waited_seconds: float | None = None  # in the queue; told with the first token
    prompt_seconds: float | None = None  # reading the prompt, after the queue; likewise
    logprobs: Sequence[TokenLogprob] = ()
    vector: bytes = b""  # of a text that was only read: float32
    finish_reason: str | None = None
    error: ApiError | None = None  # the reason is "error": the whole answer fails


@dataclass(slots=True)
class Counts:
    """What a backend has counted since its start."""

    prefix_queries: int = 0  # prompt tokens, of which ...
    prefix_hits: int = 0  # ... so many had been read before
    preemptions: int = 0  # answers that had to give their memory back and wait


class Generation:
    """One request being answered: fed by the backend, read by the server, both on the event loop."""

    def __init__(
        self,
        *,
        prompt_tokens: int,
        choices: int,
        cancel: Callable[[], None],
        close: Callable[[], None] | None = None,
        in_thought: bool = False,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.choices = choices
        self.cached_tokens = 0  # of the prompts; known when their first choices have ended
        self.in_thought = in_thought  # the prompt ended with an opened thought
        self._open = choices
        self._cancel = cancel
        self._close = close  # once nobody reads it any more, however it ended; safe to call twice
        self._deltas: list[Delta] = []
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def feed(self, delta: Delta) -> None:
        """Adds what came. Ignored once cancelled."""
        if delta.error is not None:
            self.fail(delta.error)
            return
        self._deltas.append(delta)
        self._news.set()

    def fail(self, error: ApiError) -> None:
        """Ends the answer; what was read so far stays valid."""
        if self._error is None:
            self._error = error
            self._news.set()
            self._cancel()  # of several choices, those that still run

    def cancel(self) -> None:
        """Frees what the answer holds: call it at the end, too. Twice is fine."""
        if self._open and not isinstance(self._error, HungUp):
            self._error = HungUp()
            self._news.set()
            self._cancel()
        if self._close is not None:
            self._close()

    async def batches(self) -> AsyncIterator[list[Delta]]:
        """All that came since the last look, until every choice has finished.

        Raises ApiError if the engine gave up, HungUp if the request was cancelled.
        """
        while self._open:
            await self._news.wait()
            self._news.clear()
            if isinstance(self._error, HungUp):
                raise self._error
            deltas, self._deltas = self._deltas, []
            if deltas:
                self._open -= sum(delta.finish_reason is not None for delta in deltas)
                yield deltas
            if self._error is not None and self._open:
                self._open = 0
                raise self._error


class Backend(Protocol):
    """Makes tokens. All methods are called on the event loop."""

    @property
    def fingerprint(self) -> str:
        """Tells builds apart; shown to clients as system_fingerprint."""
        ...

    @property
    def status(self) -> Status: ...

    @property
    def models(self) -> Mapping[str, str | None]:
        """Names that requests may ask for now: the base's own, which leads to None, and those of
        loaded adapters, each leading to the base's."""
        ...

    @property
    def adapters(self) -> Adapters[Any]:
        """LoRA adapters: what the admin routes load, unload and list."""
        ...

    @property
    def dialect(self) -> Dialect:
        """How the model writes thoughts and tool calls."""
        ...

    @property
    def sampling_defaults(self) -> Sampling: ...

    @property
    def max_context_tokens(self) -> int: ...

    @property
    def running(self) -> int:
        """Sequences being decoded."""
        ...

    @property
    def waiting(self) -> int:
        """Sequences admitted to the queue and not yet begun."""
        ...

    @property
    def cache_used(self) -> float:
        """The part of the KV cache in use, 0 to 1."""
        ...

    @property
    def counts(self) -> Counts: ...

    async def run(self) -> None:
        """Loads, answers until cancelled. Raises if it cannot start or cannot go on."""
        ...

    async def generate(self, request: Request) -> Generation:
        """Begins an answer. Raises ApiError if the request cannot be served."""
        ...

    async def embed(self, request: EmbeddingRequest) -> Generation:
        """Begins reading; each text is a choice that gains its vector. Raises ApiError."""
        ...
