"""Connections to engines: kept while idle, taken for one exchange, watched over while busy."""

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Callable

from gateway.upstream.connection import Connection, Line, Sink
from gateway.upstream.errors import Aborted, CannotConnect, ConnectionLost, UpstreamError
from gateway.upstream.settings import Address, Timeouts

IDLE_CONNECTIONS = 256  # kept for each engine


class Exchange:
    """One request to one engine: `start`, then `pass_on`, or `read` until it is empty, then
    `finish`."""

    __slots__ = ("_address", "_connection", "_is_aborted", "_pool")

    def __init__(self, pool: "Pool", address: Address) -> None:
        self._pool = pool
        self._address = address
        self._connection: Connection | None = None
        self._is_aborted = False

    async def start(self, request: bytes) -> None:
        """Send the request and wait for the answer's status and headers. Raises UpstreamError.

        A pooled connection that turns out to have been closed is replaced, once. One that is lost
        later, over the request, is not: the engine had it, and another try is for others to decide.
        """
        connection = self._connection = self._pool.take(self._address)
        if connection is not None:
            try:
                await connection.begin(request)
            except ConnectionLost:
                if self._is_aborted or not connection.is_stale(self._pool.now()):
                    raise
                connection.close()
                self._pool.forget(connection)
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

    @property
    def is_complete(self) -> bool:
        """Whether all of the answer is here."""
        return self._connection is not None and self._connection.is_complete

    def take(self) -> bytes:
        """What has come of the body and was not read yet, which may be nothing."""
        return self._connection.take() if self._connection is not None else b""

    async def pass_on(self, sink: Sink) -> None:
        """Give the body to `sink`, piece by piece as it comes; see Connection. Raises UpstreamError."""
        if self._connection is None:
            raise Aborted
        await self._connection.pass_on(sink)

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
    """Connections to all engines. `run` watches over time-outs while it runs. With `tls` engines are
    spoken to by TLS, their certificates checked as it says."""

    def __init__(
        self, timeouts: Timeouts | None = None, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self.tls = tls
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
                connection = await self._dial(
                    address, lambda: Connection(line, self._timeouts, loop)
                )
        except (OSError, TimeoutError) as error:
            raise CannotConnect(f"{address[0]}:{address[1]}: {error!r}") from error
        self._busy.add(connection)
        return connection

    async def _dial(self, address: Address, make: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(make, *address, ssl=self.tls)
        return connection

    def forget(self, connection: Connection) -> None:
        self._busy.discard(connection)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def give_back(self, address: Address, connection: Connection) -> None:
        self._busy.discard(connection)
        idle = self._idle[address]
        if connection.may_be_kept() and len(idle) < IDLE_CONNECTIONS:
            connection.is_busy = False
            idle.append((self.now(), connection))
        else:
            connection.close()

    def silences(self) -> dict[Address, float]:
        """For how many seconds each engine that has open requests has sent nothing at all. Answers
        that wait for our clients to take them do not count."""
        now = self.now()
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
