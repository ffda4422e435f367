"""What the data path asks of limits, and what it promises them."""

from dataclasses import dataclass
from typing import Any, Protocol

from gateway.directory import Key


@dataclass(frozen=True, slots=True)
class Wish:
    """What is known of a request before it is answered. `input_tokens` is an estimate;
    `max_output_tokens` of all answers together, None where the client set no bound."""

    model_name: str
    body_bytes: int = 0
    input_tokens: int = 0
    max_output_tokens: int | None = None
    answers: int = 1


class Ticket:
    """One request that was let in. `headers` go out with its answer, names in lower case."""

    __slots__ = ("headers", "holds", "key", "model_name")

    def __init__(self, key: Key, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.key = key
        self.headers: list[tuple[bytes, bytes]] = headers or []
        self.model_name = ""
        self.holds: Any = ()


class Limiter(Protocol):
    """The data path calls `enter` for every completion once it knows its model, and `leave` exactly
    once for every ticket: answered, refused by an engine, given up by the client or cancelled."""

    async def enter(self, key: Key, wish: Wish) -> Ticket:
        """Reserve. Raises ApiError (429) and reserves nothing. On every request's way: it should
        wait for nothing in the common case."""
        ...

    def leave(
        self,
        ticket: Ticket,
        *,
        is_counted: bool,
        input_tokens: int,
        cached_input_tokens: int,
        output_tokens: int,
    ) -> None:
        """Settle with what was used; `is_counted`: an engine answered or began to, so that there
        is a usage event. Never waits."""
        ...

    async def run(self) -> None:
        """What is to be done beside requests, until cancelled."""
        ...
