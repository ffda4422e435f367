"""Usage events on their way to Redis."""

import asyncio
import contextlib
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from django.conf import settings

from gateway import metering
from gateway.metering import Meter
from usage import stream
from usage.tests.make import make_event

ORGANIZATION = "018f0000-0000-7000-8000-000000000000"


def told() -> list[str]:
    client = redis.Redis.from_url(settings.REDIS_URL)
    entries: Any = client.xrange(stream.EVENTS)
    client.close()
    return [event["request_id"] for _, fields in entries for event in stream.decode(fields)]


def event(number: int) -> stream.Event:
    return make_event(organization_id=ORGANIZATION, request_id=f"request-{number}")


@pytest.fixture(autouse=True)
def _empty_stream():
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.delete(stream.EVENTS)
    yield
    client.delete(stream.EVENTS)
    client.close()


class Relay:
    """A port that leads to the real Redis while it is open, and to nothing while it is not."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._lines: list[asyncio.StreamWriter] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for line in self._lines:
            line.close()
        self._lines.clear()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to = urlsplit(settings.REDIS_URL)
        if to.scheme == "unix":
            far_reader, far_writer = await asyncio.open_unix_connection(to.path)
        else:
            far_reader, far_writer = await asyncio.open_connection(to.hostname, to.port or 6379)
        self._lines += [writer, far_writer]
        with contextlib.suppress(OSError):
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def wait_for(count: int) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while len(await asyncio.to_thread(told)) < count:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def test_events_wait_while_redis_is_away() -> None:
    relay = Relay()
    await relay.open()
    meter = Meter(relay.url)
    writing = asyncio.create_task(meter.run())
    meter.record(event(0))
    await wait_for(1)
    await relay.close()
    for number in range(1, 450):
        meter.record(event(number))
    await asyncio.sleep(0.2)
    assert len(told()) == 1
    await relay.open()
    await wait_for(450)
    assert sorted(set(told())) == sorted(f"request-{number}" for number in range(450))
    writing.cancel()
    await asyncio.wait([writing])
    await relay.close()


async def test_what_is_left_at_the_end_is_written() -> None:
    meter = Meter(settings.REDIS_URL)
    writing = asyncio.create_task(meter.run())
    await asyncio.sleep(0)
    meter.record(event(1))
    writing.cancel()
    await asyncio.wait([writing])
    assert told() == ["request-1"]


def test_what_finds_no_room_is_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "MOST_WAITING", 3)
    meter = Meter("redis://127.0.0.1:1/0")
    for number in range(5):
        meter.record(event(number))
    assert meter.lost == 2


def test_tokens_of_a_request_that_nobody_counted_are_estimated_from_those_before() -> None:
    meter = Meter("redis://127.0.0.1:1/0")
    assert meter.estimate_input_tokens("tiny", body_bytes=400) == 100
    meter.learn("tiny", body_bytes=200, input_tokens=20)
    assert meter.estimate_input_tokens("tiny", body_bytes=400) == 40
    for _ in range(100):
        meter.learn("tiny", body_bytes=200, input_tokens=100)
    assert meter.estimate_input_tokens("tiny", body_bytes=400) == 200
    assert meter.estimate_input_tokens("big", body_bytes=400) == 100
