"""What the data path asks of limits, and what it promises them."""

from typing import Protocol

from gateway.directory import Key


class Ticket:
    """One request that was let in. `headers` go out with its answer, names in lower case."""

    __slots__ = ("headers", "key")

    def __init__(self, key: Key, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.key = key
        self.headers: list[tuple[bytes, bytes]] = headers or []


class Limiter(Protocol):
    """The data path calls `enter` for every completion once it knows its model, and `leave` exactly
    once for every ticket: answered, refused by an engine, given up by the client or cancelled."""

    async def enter(
        self, key: Key, model_name: str, *, input_tokens: int, max_output_tokens: int | None
    ) -> Ticket:
        """Reserve. `input_tokens` is an estimate; `max_output_tokens` is None where the client set
        no bound. Raises ApiError (429) and reserves nothing. On every request's way: it should wait
        for nothing in the common case."""
        ...

    def leave(
        self, ticket: Ticket, *, input_tokens: int, cached_input_tokens: int, output_tokens: int
    ) -> None:
        """Settle with what was used, all 0 where no engine answered. Never waits."""
        ...

    async def run(self) -> None:
        """What is to be done beside requests, until cancelled."""
        ...
