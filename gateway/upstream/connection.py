"""One connection to one engine: what the loop and the parser call, and what an exchange does."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httptools

from gateway.driving import Driven, drive
from gateway.upstream.errors import Aborted, ConnectionLost, TimedOut, UpstreamError
from gateway.upstream.settings import Address, Timeouts

HIGH_WATER_BYTES = 256 * 1024  # buffered of one answer before its engine has to wait
MOST_HEADERS = 100
MOST_HEADER_BYTES = 64 * 1024
Sink = Callable[[bytes], Coroutine[Any, None, None]]


@dataclass(slots=True)
class Line:
    """What all connections to one engine share."""

    address: Address
    heard_at: float = 0.0  # by the loop's clock: the last byte of any answer


class Connection(asyncio.Protocol):
    """One connection to one engine; used by `Exchange` alone."""

    def __init__(self, line: Line, timeouts: Timeouts, loop: asyncio.AbstractEventLoop) -> None:
        self.line = line
        self._timeouts = timeouts
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._header_bytes = 0
        self._sink: Sink | None = None
        self._sending: Driven | None = None
        self._sink_error: BaseException | None = None
        self._is_paused = False
        self._is_framed = False  # the answer says where it ends
        self._is_lasting = False  # the engine will take another request on this connection
        self._error: UpstreamError | None = None
        self.is_open = False
        self.is_busy = False
        self.has_answered = False  # any byte of the present answer has come
        self.is_complete = False
        self.began_at = 0.0
        self.deadline = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if not self.is_busy or self.is_complete:  # an answer to nothing
            self.close()
            return
        self.has_answered = True
        self.line.heard_at = now = self._loop.time()
        self.deadline = now + self._timeouts.idle
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(ConnectionLost(f"not HTTP: {error}"))
            return
        if self._sink is not None:
            self._pump()
        elif self._waiter is not None:
            self._wake()
        if self._buffered > HIGH_WATER_BYTES and not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self.is_busy and not self.is_complete:
            if self.status and not self._is_framed and error is None:
                self.is_complete = True  # it ends where the connection does
            elif self._error is None:
                self._error = ConnectionLost(str(error or "the engine closed the connection"))
        self._wake()

    # what the parser calls

    def on_message_begin(self) -> None:
        self.status = 0
        self.headers = []
        self._is_framed = False
        self._header_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        self._header_bytes += len(name) + len(value)
        if len(self.headers) > MOST_HEADERS or self._header_bytes > MOST_HEADER_BYTES:
            raise ValueError("the head of the answer is too long")  # the parser passes it on
        if name in (b"content-length", b"transfer-encoding"):
            self._is_framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self.status = status if status >= 200 else 0  # 1xx announce another answer
        self._is_lasting = self._parser.should_keep_alive()  # the parser forgets at the end

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._buffered += len(data)

    def on_message_complete(self) -> None:
        self.is_complete = self.status != 0

    # what an exchange calls

    async def begin(self, request: bytes) -> None:
        """Send a request and wait for the head of its answer."""
        self.is_busy = True
        self.has_answered = self.is_complete = False
        self.status = 0
        self.began_at = now = self._loop.time()
        self.deadline = now + self._timeouts.first_byte
        if self._transport is None or not self.is_open:
            raise ConnectionLost("closed while idle")
        self._transport.write(request)
        while not self.status:
            await self._wait()

    async def read(self) -> bytes:
        """What has come since the last call; waits for some. Empty at the end of the answer."""
        while not self._pieces:
            if self.is_complete:
                return b""
            await self._wait()
        return self.take()

    def take(self) -> bytes:
        """What has come since the last call, which may be nothing."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._buffered = 0
        if self._is_paused and self._transport and self.is_open:
            self._is_paused = False
            self.deadline = self._loop.time() + self._timeouts.idle
            self._transport.resume_reading()
        return data

    async def pass_on(self, sink: Sink) -> None:
        """Give every piece to `sink` as it comes, one at a time, until the answer ends.

        Nobody is woken up for a piece that is taken at once, and while one is not, the engine is
        held back. Raises UpstreamError, once all that had come is given; what `sink` raises.
        """
        self._sink = sink
        try:
            self._pump()
            while True:
                if self._sink_error is not None:
                    raise self._sink_error
                if self._sending is None and not self._pieces:
                    if self.is_complete:
                        return
                    self._stop_if_failed()
                if isinstance(self._error, Aborted):
                    raise self._error
                self._waiter = self._loop.create_future()
                await self._waiter
        finally:
            self._sink = self._sink_error = self._waiter = None
            if self._sending is not None:
                self._sending.close()
                self._sending = None

    def check(self, now: float) -> None:
        """Fail if the engine has been silent for too long. Waiting for our client does not count."""
        if self.is_waited_for() and now > self.deadline:
            self.fail(TimedOut("the engine was silent for too long"))

    def is_waited_for(self) -> bool:
        """Whether the engine owes us something, and we would take it."""
        return self.is_busy and not self.is_complete and not self._is_paused

    def is_stale(self, now: float) -> bool:
        """Whether it had most likely been closed before the request that was just lost on it."""
        return not self.has_answered and now - self.began_at < self._timeouts.stale

    def fail(self, error: UpstreamError) -> None:
        self._error = self._error or error
        self.close()
        self._wake()

    def may_be_kept(self) -> bool:
        return self.is_open and self.is_complete and self._is_lasting and not self._pieces

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def _pump(self) -> None:
        """Hand over what is here, unless the last piece is still being taken."""
        sink = self._sink
        while sink is not None and self._pieces and self._sending is None:
            try:
                self._sending = drive(sink(self.take()), self._taken)
            except Exception as error:  # noqa: BLE001 - raised where the answer is waited for
                self._sink_error = error
                self._wake()
                return
        if self.is_complete:
            self._wake()

    def _taken(self, _result: None, error: BaseException | None) -> None:
        self._sending, self._sink_error = None, error
        if error is None:
            self._pump()
        self._wake()

    async def _wait(self) -> None:
        self._stop_if_failed()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if not self._pieces:  # what came before a failure is still read
            self._stop_if_failed()

    def _stop_if_failed(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
