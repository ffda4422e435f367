"""Closed-loop load on a served model: N clients, each asking again once it is answered.

`python -m engines.load_client` reads one `LoadSpec` as JSON from its input, prints one `LoadResult`
as JSON and ends. A process of its own, so that what it measures is not its caller's event loop.
Standard library only. Every request streams; prompts differ, so that no prefix cache answers them.
"""

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

WORDS = ("order", "parcel", "city", "today", "refund", "paid", "late", "box", "street", "north")
CONNECT_SECONDS = 10.0
MOST_PROBLEMS = 5


@dataclass(frozen=True, kw_only=True)
class LoadSpec:
    """One level of load. `key` is the bearer secret."""

    base_url: str  # as clients use it, without /v1
    key: str = field(repr=False)
    model: str
    clients: int
    seconds: float  # until no new request begins; those that have begun may end within `grace`
    prompt_words: int = 64
    output_tokens: int = 64
    grace_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What was seen. Times are milliseconds, shares of requests p50 and p95; None without samples.

    `tokens_per_second` is output tokens over the time from the first request to the last answer's
    end, by the engine's own count.
    """

    clients: int
    requests: int
    failures: int
    seconds: float
    input_tokens: int
    output_tokens: int
    tokens_per_second: float
    ttft_p50_milliseconds: float | None
    ttft_p95_milliseconds: float | None
    itl_p50_milliseconds: float | None
    itl_p95_milliseconds: float | None
    problems: list[str]

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        return cls(**json.loads(text))


class Refused(Exception):
    """The answer was an error, or broke off; the message says which."""


class Load:
    """One run. Counts only whole answers."""

    def __init__(self, spec: LoadSpec) -> None:
        parts = urlsplit(spec.base_url)
        self._spec = spec
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path.rstrip("/") + "/v1/chat/completions"
        self._first: list[float] = []
        self._between: list[float] = []
        self._tokens = [0, 0]
        self._requests = 0
        self._problems: list[str] = []
        self._failures = 0

    async def run(self) -> LoadResult:
        spec = self._spec
        began = time.monotonic()
        ends_at = began + spec.seconds
        clients = [asyncio.ensure_future(self._ask_until(ends_at, n)) for n in range(spec.clients)]
        _, late = await asyncio.wait(clients, timeout=spec.seconds + spec.grace_seconds)
        for client in late:
            client.cancel()
            self._fail("not answered in time")
        await asyncio.gather(*late, return_exceptions=True)
        seconds = time.monotonic() - began
        return LoadResult(
            clients=spec.clients,
            requests=self._requests,
            failures=self._failures,
            seconds=round(seconds, 3),
            input_tokens=self._tokens[0],
            output_tokens=self._tokens[1],
            tokens_per_second=round(self._tokens[1] / seconds, 2),
            ttft_p50_milliseconds=milliseconds(self._first, 0.5),
            ttft_p95_milliseconds=milliseconds(self._first, 0.95),
            itl_p50_milliseconds=milliseconds(self._between, 0.5),
            itl_p95_milliseconds=milliseconds(self._between, 0.95),
            problems=self._problems,
        )

    async def _ask_until(self, ends_at: float, number: int) -> None:
        """Ask on one connection, a new one after each failure; at least once."""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        asked = 0
        while asked == 0 or time.monotonic() < ends_at:
            asked += 1
            self._requests += 1
            try:
                if connection is None:
                    opening = asyncio.open_connection(self._host, self._port, ssl=self._tls)
                    connection = await asyncio.wait_for(opening, CONNECT_SECONDS)
                keep = await self._ask(*connection, nonce=f"{number}-{asked}-{time.time_ns()}")
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                self._fail(f"{type(error).__name__}: {error}")
                keep = False
            except Refused as error:
                self._fail(str(error))
                keep = False
            if not keep and connection is not None:
                connection[1].close()
                connection = None
                await asyncio.sleep(0.05)  # a target that refuses at once is not hammered
        if connection is not None:
            connection[1].close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, nonce: str
    ) -> bool:
        """One request; true if the connection may be used again."""
        began = time.monotonic()
        writer.write(self._request(nonce))
        await writer.drain()
        status, headers = await _read_head(reader)
        first: float | None = None
        last = began
        usage: dict[str, Any] = {}
        done = False
        async for event in _events(reader, headers):
            if status != 200:
                raise Refused(f"{status}: {event[:300]}")
            if event == "[DONE]":
                done = True
                continue
            chunk = json.loads(event)
            if "error" in chunk:
                raise Refused(str(chunk["error"].get("message", chunk["error"]))[:300])
            usage = chunk.get("usage") or usage
            if not _has_text(chunk):
                continue
            now = time.monotonic()
            if first is None:
                first = now - began
                self._first.append(first)
            else:
                self._between.append(now - last)
            last = now
        if status != 200:
            raise Refused(f"{status}")
        if not done:
            raise Refused("the stream ended before its end")
        self._tokens[0] += int(usage.get("prompt_tokens", 0))
        self._tokens[1] += int(usage.get("completion_tokens", 0))
        return headers.get("connection", "").lower() != "close"

    def _request(self, nonce: str) -> bytes:
        spec = self._spec
        seed = sum(nonce.encode())
        words = [WORDS[(seed * (n + 7)) % len(WORDS)] for n in range(spec.prompt_words)]
        body = json.dumps(
            {
                "model": spec.model,
                "messages": [{"role": "user", "content": f"{nonce} {' '.join(words)}"}],
                "max_tokens": spec.output_tokens,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Authorization: Bearer {spec.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _fail(self, problem: str) -> None:
        self._failures += 1
        if problem not in self._problems and len(self._problems) < MOST_PROBLEMS:
            self._problems.append(problem)


def milliseconds(samples: Sequence[float], share: float) -> float | None:
    """The smallest sample that `share` of all samples do not exceed, in milliseconds."""
    if not samples:
        return None
    ordered = sorted(samples)
    rank = max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))
    return round(ordered[rank] * 1000, 2)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(lines[0].split(" ", 2)[1]), headers


async def _events(reader: asyncio.StreamReader, headers: dict[str, str]) -> Any:
    """The data of each server-sent event; a body that is no event stream counts as one event."""
    is_stream = headers.get("content-type", "").startswith("text/event-stream")
    left = b""
    async for piece in _pieces(reader, headers):
        left += piece
        while is_stream and b"\n\n" in left:
            event, left = left.split(b"\n\n", 1)
            if event.startswith(b"data: "):
                yield event[6:].decode()
    if left.strip():
        yield left.decode()


async def _pieces(reader: asyncio.StreamReader, headers: dict[str, str]) -> Any:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int(await reader.readline() or b"x", 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while piece := await reader.read(1 << 16):
            yield piece


def _has_text(chunk: dict[str, Any]) -> bool:
    for choice in chunk.get("choices", []):
        delta = choice.get("delta", {})
        if delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"):
            return True
    return False


def main() -> None:
    spec = LoadSpec(**json.load(sys.stdin))
    sys.stdout.write(json.dumps(asdict(asyncio.run(Load(spec).run()))) + "\n")


if __name__ == "__main__":
    main()
