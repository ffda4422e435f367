"""Usage events on their way to Redis."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from factory import embedded
from gateway import metering
from gateway.metering import Meter
from usage import stream
from usage.tests.make import make_event

ORGANIZATION = "018f0000-0000-7000-8000-000000000000"


def told(url: str) -> list[str]:
    client = redis.Redis.from_url(url)
    entries: Any = client.xrange(stream.EVENTS)
    client.close()
    return [event["request_id"] for _, fields in entries for event in stream.decode(fields)]


def event(number: int) -> stream.Event:
    return make_event(organization_id=ORGANIZATION, request_id=f"request-{number}")


@pytest.fixture
def service(tmp_path: Path):
    yield tmp_path
    embedded.stop_redis(tmp_path)


async def test_events_wait_while_redis_is_away(service: Path) -> None:
    url = embedded.redis_url(service)
    meter = Meter(url)
    writing = asyncio.create_task(meter.run())
    for number in range(450):
        meter.record(event(number))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(embedded.start_redis, service)
    meter.record(event(450))
    deadline = asyncio.get_running_loop().time() + 10
    while len(await asyncio.to_thread(told, url)) < 451:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    assert told(url) == [f"request-{number}" for number in range(451)]
    writing.cancel()


async def test_what_is_left_at_the_end_is_written(service: Path) -> None:
    await asyncio.to_thread(embedded.start_redis, service)
    meter = Meter(embedded.redis_url(service))
    writing = asyncio.create_task(meter.run())
    await asyncio.sleep(0)
    meter.record(event(1))
    writing.cancel()
    await asyncio.wait([writing])
    assert told(embedded.redis_url(service)) == ["request-1"]


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
