"""The HTTP client, against a server that says exactly what the test wants."""

import asyncio
import contextlib

import pytest

from gateway import upstream
from gateway.upstream import Pool, Timeouts

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
SHORT = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Server:
    """Answers each request by `script`; counts connections."""

    def __init__(self, script) -> None:
        self._script = script
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self.writers:
            writer.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n{}")
                await self._script(reader, writer)
                await writer.drain()


def saying(*pieces: bytes, pause: float = 0.0):
    async def script(reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)

    return script


async def fetch(pool: Pool, address) -> tuple[int, bytes]:
    exchange = pool.exchange(address)
    try:
        await exchange.start(REQUEST)
        return exchange.status, await _read_all(exchange)
    finally:
        exchange.finish()


async def _read_all(exchange) -> bytes:
    body = b""
    while data := await exchange.read():
        body += data
    return body


async def test_a_connection_is_used_again_once_its_answer_was_read():
    pool = Pool()
    async with Server(saying(SHORT)) as server:
        for _ in range(5):
            assert await fetch(pool, server.address) == (200, b"hello")
        assert server.connections == 1
        await asyncio.gather(*(fetch(pool, server.address) for _ in range(3)))
        assert server.connections == 3


async def test_an_answer_in_many_pieces_and_in_chunks():
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    pool = Pool()
    async with Server(saying(*(wire[at : at + 1] for at in range(len(wire))))) as server:
        assert await fetch(pool, server.address) == (200, b"hello world")
        assert await fetch(pool, server.address) == (200, b"hello world")
        assert server.connections == 1


async def test_an_answer_that_ends_with_its_connection():
    async def script(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nto the end")
        await writer.drain()
        writer.close()

    async with Server(script) as server:
        assert await fetch(Pool(), server.address) == (200, b"to the end")


@pytest.mark.parametrize(
    "wire",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", b"HTTP/1.1 200", b"rubbish\r\n\r\n"],
)
async def test_an_answer_without_its_end_is_lost(wire):
    async def script(reader, writer):
        writer.write(wire)
        await writer.drain()
        writer.close()

    async with Server(script) as server:
        with pytest.raises(upstream.ConnectionLost):
            await fetch(Pool(), server.address)


async def test_what_came_before_the_loss_is_still_read():
    async def script(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async with Server(script) as server:
        exchange = Pool().exchange(server.address)
        await exchange.start(REQUEST)
        await asyncio.sleep(0.05)
        assert await exchange.read() == b"hello"
        with pytest.raises(upstream.ConnectionLost):
            await exchange.read()
        exchange.finish()


async def test_a_stale_connection_is_replaced_without_a_word():
    pool = Pool()
    async with Server(saying(SHORT)) as server:
        await fetch(pool, server.address)
        # closed by the other side, and asked at once: the news has not arrived yet
        server.writers[0].close()
        assert await fetch(pool, server.address) == (200, b"hello")
        assert server.connections == 2


async def test_a_connection_that_closes_after_its_answer_is_not_kept():
    wire = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello"
    pool = Pool()
    async with Server(saying(wire)) as server:
        await fetch(pool, server.address)
        await fetch(pool, server.address)
        assert server.connections == 2


async def test_silence_is_a_time_out_before_the_first_byte_and_between_bytes():
    pool = Pool(Timeouts(first_byte=0.2, idle=0.2))
    watch = asyncio.create_task(pool.run())
    async with Server(saying()) as server:
        with pytest.raises(upstream.TimedOut):
            await fetch(pool, server.address)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"
    async with Server(saying(head, b"1", b"2", b"3", pause=0.1)) as server:
        exchange = pool.exchange(server.address)
        await exchange.start(REQUEST)
        with pytest.raises(upstream.TimedOut):
            await _read_all(exchange)
        exchange.finish()
    watch.cancel()


async def test_nobody_there():
    async with Server(saying()) as server:
        address = server.address
    with pytest.raises(upstream.CannotConnect):
        await fetch(Pool(), address)


async def test_giving_up_wakes_who_waits_and_closes_the_line():
    closed = asyncio.Event()

    async def script(reader, writer):
        if not await reader.read():
            closed.set()

    async with Server(script) as server:
        exchange = Pool().exchange(server.address)
        waiting = asyncio.create_task(exchange.start(REQUEST))
        await asyncio.sleep(0.05)
        exchange.abort()
        with pytest.raises(upstream.Aborted):
            await waiting
        exchange.finish()
        await asyncio.wait_for(closed.wait(), 2)


async def test_a_slow_reader_holds_the_engine_back():
    sent = 0
    size = 64 << 20

    async def script(reader, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1 << 20

    async with Server(script) as server:
        exchange = Pool().exchange(server.address)
        await exchange.start(REQUEST)
        await asyncio.sleep(0.5)
        assert sent < size / 2
        assert len(await _read_all(exchange)) == size
        exchange.finish()


async def test_a_request_that_breaks_its_engine_is_not_sent_to_it_again():
    asked = 0

    async def script(reader, writer):
        nonlocal asked
        asked += 1
        if asked == 1:
            writer.write(SHORT)
        else:
            await asyncio.sleep(0.3)  # it had the request, and then it broke
            writer.close()

    pool = Pool(Timeouts(stale=0.1))
    async with Server(script) as server:
        await fetch(pool, server.address)
        with pytest.raises(upstream.ConnectionLost):
            await fetch(pool, server.address)
    assert asked == 2


async def test_a_stale_connection_is_replaced_only_once():
    asked = 0

    async def script(reader, writer):
        nonlocal asked
        asked += 1
        if asked == 1:
            writer.write(SHORT)
        else:
            writer.close()

    pool = Pool()
    async with Server(script) as server:
        await fetch(pool, server.address)
        with pytest.raises(upstream.ConnectionLost):
            await fetch(pool, server.address)
    assert asked == 3


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 5\r\ncontent-length: 7\r\n",
        b"content-length: -5\r\n",
        b"x: " + b"y" * (1 << 17) + b"\r\ncontent-length: 5\r\n",
    ],
)
async def test_an_answer_that_could_be_read_in_two_ways_is_none(head):
    async with Server(saying(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nhello")) as server:
        with pytest.raises(upstream.ConnectionLost):
            await fetch(Pool(), server.address)


async def test_pieces_are_passed_on_one_at_a_time_and_the_engine_waits_for_a_slow_client():
    sent, size = 0, 32 << 20
    taken: list[int] = []
    free = asyncio.Event()

    async def script(reader, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1 << 20

    async def sink(data: bytes) -> None:
        await free.wait()
        taken.append(len(data))

    async with Server(script) as server:
        exchange = Pool().exchange(server.address)
        await exchange.start(REQUEST)
        passing = asyncio.create_task(exchange.pass_on(sink))
        await asyncio.sleep(0.3)
        assert not taken
        assert sent < size / 2
        free.set()
        await asyncio.wait_for(passing, 20)
        exchange.finish()
    assert sum(taken) == size


async def test_what_a_client_breaks_on_ends_its_answer():
    async def sink(data: bytes) -> None:
        raise RuntimeError("the client is gone")

    async with Server(saying(SHORT)) as server:
        exchange = Pool().exchange(server.address)
        await exchange.start(REQUEST)
        with pytest.raises(RuntimeError, match="gone"):
            await exchange.pass_on(sink)
        exchange.finish()
