"""Counts of several gateway processes, through the real Redis, to one reader."""

import asyncio
import time

import pytest
import redis
import redis.asyncio
from django.conf import settings

from deployments import signals as reading
from gateway.signals import Flight, Signals
from gateway.upstream import ConnectionLost, TimedOut, UpstreamError


@pytest.fixture(autouse=True)
def client():
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


def write(*writers: Signals) -> None:
    async def write_all() -> None:
        async with redis.asyncio.Redis.from_url(settings.REDIS_URL) as connection:
            for writer in writers:
                await writer.write(connection)

    asyncio.run(write_all())


def make_signals() -> Signals:
    return Signals(settings.REDIS_URL)


def answer(writer: Signals, replica_id: str = "a", *, wait: float = 0.1, tokens: int = 10) -> None:
    """One streamed answer whose first token took `wait` seconds."""
    flight = writer.open(replica_id, is_streamed=True)
    flight.first_byte = flight.began + wait
    flight.input_tokens, flight.output_tokens = 5, tokens
    writer.close(flight)


def fail(writer: Signals, error: UpstreamError, replica_id: str = "a") -> Flight:
    flight = writer.open(replica_id, is_streamed=False)
    flight.fail(error)
    writer.close(flight)
    return flight


def test_two_gateways_add_up() -> None:
    one, other = make_signals(), make_signals()
    for _ in range(3):
        answer(one)
    answer(other, wait=1.0)
    answer(other, "b")
    fail(other, ConnectionLost("gone"))
    fail(other, TimedOut("silent"))
    write(one, other)
    window = reading.read_window(seconds=30, replica_ids=["a", "b"])
    everything = reading.read_window(seconds=30)
    assert window is not None
    assert everything is not None
    assert everything.replicas == window.replicas
    total = window.replicas["a"]
    assert (total.requests, total.errors, total.timeouts) == (6, 2, 1)
    assert (total.input_tokens, total.output_tokens) == (20, 40)
    assert total.first_token_seconds(0.5) == pytest.approx(0.1, rel=0.45)
    assert total.first_token_seconds(0.99) == pytest.approx(1.0, rel=0.45)
    assert window.of(["a", "b"]).requests == 7
    assert 30 <= window.seconds <= 40
    history = reading.read_history(["a", "b"], seconds=60)
    assert history is not None
    assert len(history) == 7
    assert sum(totals.requests for _, totals in history) == 7


def test_writing_twice_counts_once(client) -> None:
    writer = make_signals()
    answer(writer)
    write(writer, writer)
    answer(writer)
    write(writer)
    window = reading.read_window(seconds=30)
    assert window is not None
    assert window.replicas["a"].requests == 2
    (key,) = client.keys("signals:bucket:*")
    assert 0 < client.ttl(key) <= reading.KEPT_SECONDS + 2 * reading.BUCKET_SECONDS


def test_what_is_in_flight_and_held_ends_with_its_gateway(client) -> None:
    one, other = make_signals(), make_signals()
    open_here = [one.open("a", is_streamed=False) for _ in range(2)]
    other.open("a", is_streamed=True)
    other.held = lambda: {"deployment": 4}
    write(one, other)
    now = reading.read_now()
    assert now is not None
    assert (now.gateways, now.in_flight, now.held) == (2, {"a": 3}, {"deployment": 4})
    assert 0 < client.ttl(reading.now_key(other.gateway)) <= reading.NOW_SECONDS
    client.delete(reading.now_key(other.gateway))  # as its end of life does
    one.close(open_here[0])
    write(one)
    now = reading.read_now()
    assert now is not None
    assert (now.gateways, now.in_flight, now.held) == (1, {"a": 1}, {})


def test_nobody_who_tells_is_not_the_same_as_no_load() -> None:
    assert reading.read_now() is None
    write(make_signals())
    assert reading.read_now() is not None


def test_tokens_of_an_open_stream_count_as_they_pass_and_once() -> None:
    class Passing:
        tokens_passed = 6

    writer = make_signals()
    flight = writer.open("a", is_streamed=True)
    flight.first_byte, flight.answer = time.monotonic(), Passing()  # type: ignore[assignment]
    write(writer)
    window = reading.read_window(seconds=30)
    assert window is not None
    assert (window.replicas["a"].requests, window.replicas["a"].output_tokens) == (0, 6)
    flight.output_tokens = 8
    writer.close(flight)
    write(writer)
    window = reading.read_window(seconds=30)
    assert window is not None
    assert (window.replicas["a"].requests, window.replicas["a"].output_tokens) == (1, 8)


def test_while_redis_is_away_counts_wait() -> None:
    writer = make_signals()

    async def try_in_vain() -> None:
        async with redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0") as nowhere:
            with pytest.raises(redis.ConnectionError):
                await writer.write(nowhere)

    for _ in range(2):
        answer(writer)
        asyncio.run(try_in_vain())
    write(writer)
    window = reading.read_window(seconds=30)
    assert window is not None
    assert window.replicas["a"].requests == 2


def test_counting_a_request_costs_the_gateway_next_to_nothing() -> None:
    writer = make_signals()
    rounds = 5_000
    costs = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(rounds):
            answer(writer)
        costs.append((time.process_time() - began) / rounds)
    assert min(costs) < 20e-6  # less than 2 on a quiet machine
