"""Engines that die, hang or are away, and what the gateway tells of them."""

import concurrent.futures
import json
import time
from datetime import timedelta
from typing import Any

import openai
import pytest
from django.utils import timezone

from accounts.tests.make import make_organization
from deployments import signals
from gateway.directory import Replica, Target
from gateway.protocol import read_call
from gateway.routing import Router
from gateway.tests.make import (
    make_replica,
    make_route,
    make_target,
    read_events,
)
from gateway.upstream import Timeouts
from usage import statements

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]

HELLO = [{"role": "user", "content": "hello there"}]
SLOW = {"FAKE_TOKENS": "400", "FAKE_DELAY_SECONDS": "0.02"}


def test_an_engine_killed_before_the_first_byte_is_replaced(start_engine, start_gateway, secret):
    steady, dying = (start_engine(environment={"FAKE_DELAY_SECONDS": "0.05"}) for _ in range(2))
    target = make_target(make_replica(steady), make_replica(dying))
    client = start_gateway(target).client(secret)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        ask = client.chat.completions.create
        pending = [
            threads.submit(ask, model="tiny", messages=_for(replica, target))
            for replica in target.replicas
        ]
        dying.wait_metric("vllm:num_requests_running", 1)
        dying.process.kill()
        assert all(each.result().usage.completion_tokens == 16 for each in pending)
    events = read_events(count=2)
    assert {str(event["replica_id"]) for event in events} == {target.replicas[0].id}


def _for(replica: Replica, target: Target) -> list[Any]:
    """Messages whose beginning has this replica for its home."""
    route = make_route("", target)
    for n in range(1000):
        messages = [{"role": "user", "content": f"hello {n}"}]
        body = json.dumps({"model": "tiny", "messages": messages}).encode()
        choice = Router().choose(route, affinity=read_call("chat/completions", body).affinity)
        if choice is not None and choice.replica == replica:
            return messages
    raise AssertionError("no message leads there")


def test_an_engine_that_dies_alone_is_502(start_engine, start_gateway, secret):
    dying = start_engine(environment=SLOW)
    client = start_gateway(make_target(make_replica(dying))).client(secret)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        pending = threads.submit(client.chat.completions.create, model="tiny", messages=HELLO)
        dying.wait_metric("vllm:num_requests_running", 1)
        dying.process.kill()
        with pytest.raises(openai.InternalServerError) as caught:
            pending.result()
    assert caught.value.status_code == 502
    read_events(count=0)


def test_a_silent_engine_is_504(start_engine, start_gateway, secret):
    engine = start_engine(environment={"FAKE_DELAY_SECONDS": "5"})
    gateway = start_gateway(make_target(make_replica(engine)), timeouts=Timeouts(first_byte=0.4))
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client(secret).chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.status_code == 504
    engine.wait_metric("vllm:num_requests_running", 0, seconds=2)


def test_many_at_once_are_all_answered_and_all_counted(engine, start_gateway, secret):
    client = start_gateway(make_target(make_replica(engine))).client(secret)

    def ask(number: int) -> tuple[int, int]:
        if number % 2:
            usage = client.chat.completions.create(model="tiny", messages=HELLO).usage
            return usage.prompt_tokens, usage.completion_tokens
        last: Any = None
        for chunk in client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "word " * (number + 1)}],
            stream=True,
            stream_options={"include_usage": True},
        ):
            last = chunk
        return last.usage.prompt_tokens, last.usage.completion_tokens

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        counted = list(threads.map(ask, range(96)))
    events = read_events(count=96)
    assert sum(e["input_tokens"] for e in events) == sum(each[0] for each in counted)
    assert sum(e["output_tokens"] for e in events) == sum(each[1] for each in counted)


def test_the_statement_says_at_once_what_the_client_counted(engine, start_gateway, secret):
    client = start_gateway(make_target(make_replica(engine))).client(secret)
    retail = make_organization()
    counted = {"requests": 0, "input_tokens": 0, "output_tokens": 0}
    for number in range(6):
        last: Any = None
        for chunk in client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "word " * (number + 1)}],
            max_tokens=number + 1,
            stream=True,
            stream_options={"include_usage": True},
        ):
            last = chunk
        counted["requests"] += 1
        counted["input_tokens"] += last.usage.prompt_tokens
        counted["output_tokens"] += last.usage.completion_tokens
        now = timezone.now()
        start, end = now - timedelta(hours=1), now + timedelta(hours=1)
        time.sleep(0.02)  # a tenant's request for it takes longer than that to arrive
        found = statements.statement(organization=retail, start=start, end=end, now=now)
        assert {line.what.item: int(line.quantity) for line in found.lines} == counted
        assert [use.key_name for use in found.keys] == ["test"]


def test_signals_tell_of_answers_and_of_engines_that_are_away(engine, start_gateway, secret):
    answering, away = make_replica(engine), make_replica()
    client = start_gateway(make_target(answering, away)).client(secret)
    for n in range(20):  # some of them first meet the replica that is away
        messages = [{"role": "user", "content": f"hello {n}"}]
        list(client.chat.completions.create(model="tiny", messages=messages, stream=True))
    deadline = time.monotonic() + 10
    while True:
        window = signals.read_window(seconds=60, replica_ids=[answering.id])
        if window is not None and window.of([answering.id]).requests == 20:
            break
        assert time.monotonic() < deadline, window
        time.sleep(0.05)
    total = window.of([answering.id])
    assert (total.errors, total.output_tokens) == (0, 20 * 16)
    assert total.input_tokens > 0
    assert 0 < (total.first_token_seconds(0.5) or 0) < 5
    everything = signals.read_window(seconds=60)
    assert everything is not None
    failed = everything.of([away.id])
    assert failed.errors == failed.requests >= 1
    now = signals.read_now()
    assert now is not None
    assert now.in_flight_on([answering.id, away.id]) == 0
