"""Reads what an answer cost from the answer itself, while its bytes go by.

Engines count; we only read. An answer says `usage` in its body, a stream in its last chunk, which
is asked for even if the client did not, and then kept from it. Of an answer that ended early we
count the chunks that reached the client: one token each, or more where an engine sends several
at once, so that nobody pays for what did not arrive.
"""

import json
from typing import Any, NamedTuple

import orjson

TAIL_BYTES = 4096  # more than any usage chunk
MOST_BODY_BYTES = 16 << 20  # of an answer that is not streamed, kept to be read
MOST_EVENT_BYTES = 4 << 20  # of one event of a stream, waited for to be whole
USAGE = b'"usage":'
EMPTY_CHOICES = (b'"choices":[]', b'"choices": []')
_decoder = json.JSONDecoder()


class Usage(NamedTuple):
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0


class WholeAnswer:
    """The body of an answer that is not streamed."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self.tokens_passed = 0  # a client has no use for half of it

    def take(self, data: bytes) -> bytes:
        """What to pass on of the bytes that came: all."""
        self._size += len(data)
        if self._size <= MOST_BODY_BYTES:
            self._pieces.append(data)
        return data

    def rest(self) -> bytes:
        return b""

    def usage(self) -> Usage | None:
        return read_usage(b"".join(self._pieces))


class StreamedAnswer:
    """Server-sent events. `strips_usage`: the client did not ask for the usage chunk."""

    def __init__(self, *, strips_usage: bool) -> None:
        self._strips_usage = strips_usage
        self._held = b""  # the beginning of an event whose end has not come
        self._tail = b""
        self.tokens_passed = 0

    def take(self, data: bytes) -> bytes:
        """What to pass on of the bytes that came, whole events where the usage chunk is stripped."""
        if not self._strips_usage:
            self._tail = data[-TAIL_BYTES:] if len(data) >= TAIL_BYTES else self._longer_tail(data)
            self._count(data)
            return data
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(b"\n\n"):
            end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
            if len(data) - end <= MOST_EVENT_BYTES:
                data, self._held = data[:end], data[end:]
        if EMPTY_CHOICES[0] in data or EMPTY_CHOICES[1] in data:
            data = self._without_usage(data)
        self._count(data)
        return data

    def rest(self) -> bytes:
        """What was held back and will not be completed."""
        held, self._held = self._held, b""
        return held

    def usage(self) -> Usage | None:
        return read_usage(self._tail)

    def _longer_tail(self, data: bytes) -> bytes:
        return (self._tail + data)[-TAIL_BYTES:]

    def _count(self, data: bytes) -> None:
        """One token an event; the event that opens a choice of a chat has a role and no token."""
        self.tokens_passed += data.count(b"\n\n") - data.count(b'"role":"')

    def _without_usage(self, data: bytes) -> bytes:
        """`data` is whole events; the usage chunk, of which there is one, comes near its end."""
        at = max(data.rfind(mark) for mark in EMPTY_CHOICES)
        while at >= 0:
            before = data.rfind(b"\n\n", 0, at)
            start = before + 2 if before >= 0 else 0
            end = data.find(b"\n\n", at) + 2
            if self._is_usage(data[start:end]):
                return data[:start] + data[end:]
            at = max(data.rfind(mark, 0, start) for mark in EMPTY_CHOICES)
        return data

    def _is_usage(self, event: bytes) -> bool:
        if not event.startswith(b"data:"):
            return False
        try:
            body = orjson.loads(event[5:])
        except orjson.JSONDecodeError:
            return False
        if not isinstance(body, dict) or body.get("choices") != [] or not body.get("usage"):
            return False
        self._tail = event[-TAIL_BYTES:]
        return True


def read_usage(body: bytes) -> Usage | None:
    """The last `usage` object in these bytes, which may begin anywhere; None if there is none.

    Within a JSON text the quotes of that name would be escaped, so it is found nowhere else.
    """
    at = body.rfind(USAGE)
    while at >= 0:
        text = body[at + len(USAGE) :].lstrip()
        if text.startswith(b"{"):
            if (known := _at_the_end(text)) is not None:
                return _usage(known)
            try:
                values, _end = _decoder.raw_decode(text.decode("utf-8", errors="replace"))
                return _usage(values)
            except ValueError:
                return None
        at = body.rfind(USAGE, 0, at)
    return None


def _at_the_end(text: bytes) -> dict[str, Any] | None:
    """The object with which `text` begins where only the end of the one around it follows, as
    engines write it; None for anything else."""
    try:
        values = orjson.loads(text[: text.rindex(b"}")])
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _usage(values: dict[str, Any]) -> Usage:
    details = values.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=_count_of(values.get("prompt_tokens")),
        output_tokens=_count_of(values.get("completion_tokens")),
        cached_input_tokens=_count_of(details.get("cached_tokens")),
    )


def _count_of(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
