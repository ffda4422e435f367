"""From what a backend makes to what a client reads: one request's answer, whole or as chunks."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from engines.backend import Delta, Generation
from engines.metrics import Watch
from engines.protocol.dialect import Dialect
from engines.protocol.reading import AnswerReader, Piece
from engines.protocol.requests import Request
from engines.protocol.responses import Choice, Shape, Usage


class Teller:
    """Use either `whole` or `chunks`, once."""

    def __init__(
        self,
        request: Request,
        generation: Generation,
        *,
        dialect: Dialect,
        shape: Shape,
        watch: Watch,
    ) -> None:
        self._request = request
        self._generation = generation
        self._shape = shape
        self._watch = watch
        self._reasoning_tokens = 0
        self._thinks = request.is_chat and dialect.reasoning != "none"
        self._readers: list[AnswerReader] = []
        if self._thinks or request.tools:
            self._readers = [self._reader(dialect) for _ in range(generation.choices)]

    async def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed. Raises what `Generation.batches` raises."""
        choices = [Choice() for _ in range(self._generation.choices)]
        async for deltas in self._generation.batches():
            self._watch.saw(deltas)
            for delta in deltas:
                choice = choices[delta.index]
                pieces, choice.finish_reason = self._read(delta)
                choice.pieces += pieces
                choice.logprobs += delta.logprobs
        return self._shape.whole(choices, self._usage())

    async def chunks(self) -> AsyncIterator[list[dict[str, Any]]]:
        """What to send at once, each time something came; the first time, if only the opening.

        Raises what `Generation.batches` raises.
        """
        roles = [self._shape.role(index) for index in range(self._generation.choices)]
        opening = [each for each in roles if each is not None]
        async for deltas in self._generation.batches():
            self._watch.saw(deltas)
            yield self._with_usage(opening + self._chunks(deltas))
            opening = []

    def usage_chunk(self) -> dict[str, Any] | None:
        """What comes after all choices, for those who asked."""
        return self._shape.usage(self._usage()) if self._request.include_usage else None

    def _reader(self, dialect: Dialect) -> AnswerReader:
        tools = self._request.tools
        return AnswerReader(
            dialect,
            in_thought=self._generation.in_thought,
            tools=tools.reader(dialect) if tools else None,
            one_call=tools is not None and not tools.is_parallel,
        )

    def _chunks(self, deltas: Sequence[Delta]) -> list[dict[str, Any]]:
        chunks: list[dict[str, Any]] = []
        for delta in deltas:
            pieces, reason = self._read(delta)
            if pieces or delta.logprobs:
                chunks.append(self._shape.part(delta.index, pieces, delta.logprobs))
            if reason is not None:
                chunks.append(self._shape.finish(delta.index, reason))
        return chunks

    def _read(self, delta: Delta) -> tuple[list[Piece], str | None]:
        """What a choice gained, and why it ended if it did."""
        reason = delta.finish_reason
        if not self._readers:
            return ([Piece("content", delta.text)] if delta.text else []), reason
        reader = self._readers[delta.index]
        if reader.is_thinking:
            self._reasoning_tokens += delta.tokens
        pieces = reader.push(delta.text) if delta.text else []
        if reason is not None:
            pieces += reader.end(was_cut=reason == "length")
            if reason == "stop" and reader.has_called:
                reason = "tool_calls"
        if not self._request.include_reasoning:
            pieces = [piece for piece in pieces if piece.kind != "reasoning"]
        return pieces, reason

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._generation.prompt_tokens,
            completion_tokens=self._watch.completion_tokens,
            cached_tokens=self._generation.cached_tokens,
            reasoning_tokens=self._reasoning_tokens if self._thinks else None,
        )

    def _with_usage(self, chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those who asked for usage find null in every chunk but the last, or the count so far."""
        if not self._request.include_usage:
            return chunks
        usage = self._usage().body() if self._request.continuous_usage else None
        return [chunk | {"usage": usage} for chunk in chunks]
