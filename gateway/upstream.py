"""A small HTTP/1.1 client for engines: pooled connections, each with one request at a time.

Bytes go through as they come. Reading stops while a client is slow to take what it asked for; a
request that is given up closes its connection, which is how an engine learns that it may stop.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import httptools

HIGH_WATER_BYTES = 256 * 1024  # buffered of one answer before its engine has to wait
IDLE_CONNECTIONS = 256  # kept for each engine
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds. `pooled`: less than engines keep an idle connection open."""

    connect: float = 2.0
    first_byte: float = 600.0  # an answer that is not streamed comes whole, at its end
    idle: float = 120.0  # between two pieces of an answer
    pooled: float = 30.0


class UpstreamError(Exception):
    """The engine did not answer, or not to the end."""


class CannotConnect(UpstreamError):
    """No connection within its time: nothing was sent."""


class ConnectionLost(UpstreamError):
    """The engine ended the connection, or what it sent is not HTTP."""


class TimedOut(UpstreamError):
    """The engine was silent for too long."""


class Hung(TimedOut):
    """The engine was found to answer nobody: another may be asked."""


class Aborted(UpstreamError):
    """Our side gave the request up."""


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
        if self._buffered > HIGH_WATER_BYTES and not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

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

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
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
        self.began_at = self._loop.time()
        self.deadline = self.began_at + self._timeouts.first_byte
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
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        if self._is_paused and self._transport and self.is_open:
            self._is_paused = False
            self.deadline = self._loop.time() + self._timeouts.idle
            self._transport.resume_reading()
        return data

    def check(self, now: float) -> None:
        """Fail if the engine has been silent for too long. Waiting for our client does not count."""
        if self.is_waited_for() and now > self.deadline:
            self.fail(TimedOut("the engine was silent for too long"))

    def is_waited_for(self) -> bool:
        """Whether the engine owes us something, and we would take it."""
        return self.is_busy and not self.is_complete and not self._is_paused

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


class Exchange:
    """One request to one engine: `start`, then `read` until it is empty, then `finish`."""

    def __init__(self, pool: "Pool", address: Address) -> None:
        self._pool = pool
        self._address = address
        self._connection: Connection | None = None
        self._is_aborted = False

    async def start(self, request: bytes) -> None:
        """Send the request and wait for the answer's status and headers. Raises UpstreamError.

        A pooled connection that turns out to be dead is replaced, once: nothing was answered.
        """
        connection = self._connection = self._pool.take(self._address)
        if connection is not None:
            try:
                await connection.begin(request)
            except ConnectionLost:
                if connection.has_answered or self._is_aborted:
                    raise
            else:
                return
        connection = await self._pool.connect(self._address)
        self._connection = connection
        if self._is_aborted:
            connection.close()
            raise Aborted
        await connection.begin(request)

    @property
    def status(self) -> int:
        return self._connection.status if self._connection else 0

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._connection.headers if self._connection else []

    async def read(self) -> bytes:
        """The next piece of the body as it came; empty at its end. Raises UpstreamError."""
        if self._connection is None:
            raise Aborted
        return await self._connection.read()

    def abort(self) -> None:
        """Give the request up: whoever waits on it gets `Aborted`, and the engine a closed line."""
        self._is_aborted = True
        if self._connection is not None:
            self._connection.fail(Aborted())

    def finish(self) -> None:
        """Give the connection back if the answer was read to its end, else close it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(self._address, connection)


class Pool:
    """Connections to all engines. `run` watches over time-outs while it runs."""

    def __init__(self, timeouts: Timeouts | None = None) -> None:
        self._timeouts = timeouts or Timeouts()
        self._idle: dict[Address, list[tuple[float, Connection]]] = defaultdict(list)
        self._busy: set[Connection] = set()
        self._lines: dict[Address, Line] = {}

    def exchange(self, address: Address) -> Exchange:
        return Exchange(self, address)

    def take(self, address: Address) -> Connection | None:
        """An idle connection that is still open, the one used last."""
        idle = self._idle.get(address)
        while idle:
            _since, connection = idle.pop()
            if connection.is_open:
                self._busy.add(connection)
                return connection
        return None

    async def connect(self, address: Address) -> Connection:
        loop = asyncio.get_running_loop()
        line = self._lines.setdefault(address, Line(address))
        try:
            async with asyncio.timeout(self._timeouts.connect):
                _, connection = await loop.create_connection(
                    lambda: Connection(line, self._timeouts, loop), *address
                )
        except (OSError, TimeoutError) as error:
            raise CannotConnect(f"{address[0]}:{address[1]}: {error!r}") from error
        self._busy.add(connection)
        return connection

    def give_back(self, address: Address, connection: Connection) -> None:
        self._busy.discard(connection)
        idle = self._idle[address]
        if connection.may_be_kept() and len(idle) < IDLE_CONNECTIONS:
            connection.is_busy = False
            idle.append((asyncio.get_running_loop().time(), connection))
        else:
            connection.close()

    def silences(self) -> dict[Address, float]:
        """For how many seconds each engine that has open requests has sent nothing at all. Answers
        that wait for our clients to take them do not count."""
        now = asyncio.get_running_loop().time()
        oldest: dict[Address, float] = {}
        for connection in self._busy:
            if connection.is_waited_for():
                address, began_at = connection.line.address, connection.began_at
                oldest[address] = min(began_at, oldest.get(address, now))
        return {
            address: now - max(began_at, self._lines[address].heard_at)
            for address, began_at in oldest.items()
        }

    def fail_unanswered(self, address: Address, error: Callable[[], UpstreamError]) -> None:
        """Give up the requests on an engine of whose answers nothing has come."""
        for connection in list(self._busy):
            if connection.line.address == address and not connection.has_answered:
                connection.fail(error())

    async def run(self) -> None:
        """Look after time-outs until cancelled, then close everything."""
        waits = (self._timeouts.first_byte, self._timeouts.idle, self._timeouts.pooled)
        every = min(1.0, min(waits) / 4)
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(every)
                self._sweep(loop.time())
        finally:
            self.close()

    def close(self) -> None:
        for connection in list(self._busy):
            connection.fail(Aborted("shutting down"))
        for idle in self._idle.values():
            for _since, connection in idle:
                connection.close()
        self._idle.clear()

    def _sweep(self, now: float) -> None:
        for connection in list(self._busy):
            connection.check(now)
        for address, idle in list(self._idle.items()):
            kept = []
            for since, connection in idle:
                if connection.is_open and now - since < self._timeouts.pooled:
                    kept.append((since, connection))
                else:
                    connection.close()
            if kept:
                idle[:] = kept
            else:
                del self._idle[address]
        in_use = {connection.line.address for connection in self._busy} | self._idle.keys()
        for address in self._lines.keys() - in_use:
            del self._lines[address]


def build_request(*, path: str, host: Address, token: str, request_id: str, body: bytes) -> bytes:
    """A POST of JSON with the replica's bearer token, as bytes on the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host[0]}:{host[1]}\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\naccept: */*\r\n\r\n"
    )
    return head.encode() + body
