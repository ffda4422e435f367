"""Requests that wait for a replica, from real clients, for engines that are real processes."""

import concurrent.futures
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import openai
import pytest
from django.utils import timezone

from accounts import services as accounts
from accounts.models import ApiKey, Organization
from accounts.tests.make import make_key, make_organization
from common import notices
from common.ids import new_id
from deployments import signals
from engines.tests.make import RunningEngine, make_spec
from gateway.directory import Target, Waits
from gateway.holding import HoldSettings
from gateway.tests.make import RunningGateway, make_replica, make_target, read_events

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]

HELLO: Any = [{"role": "user", "content": "hello there"}]
ASLEEP = {"waits": Waits.ON_DEMAND, "is_asleep": True}
DEPLOYMENT = str(new_id())


def make_own_target(*replicas, **fields) -> Target:
    """Always of the same deployment."""
    return make_target(*replicas, deployment_id=DEPLOYMENT, **fields)


@pytest.fixture
def start_engine(tmp_path):
    started: list[RunningEngine] = []

    def start(**changes) -> RunningEngine:
        started.append(RunningEngine(make_spec(**changes), tmp_path).wait_ready())
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def organization():
    return make_organization()


@pytest.fixture
def start_gateway(organization):
    started: list[RunningGateway] = []

    def start(target: Target, **hold) -> RunningGateway:
        gateway = RunningGateway(hold=HoldSettings(**hold))
        gateway.route(organization, target)
        started.append(gateway.start())
        return gateway

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def client(organization):
    secret = make_key(organization)
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(headers=headers, timeout=30) as client:
        yield client


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        yield pool


def ask(
    client: httpx.Client, gateway: RunningGateway, text: str = "hello", **more
) -> httpx.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    return client.post(f"{gateway.url}/v1/chat/completions", json=body | more)


def wait_until(is_so: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_asleep(gateway: RunningGateway, organization: Organization) -> bool:
    route = gateway.directory.find_route(str(organization.pk), "tiny")
    return route is not None and route.targets[0].is_asleep


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_wakes_the_deployment_and_is_answered_when_it_is_ready(
    start_gateway, start_engine, organization, client, threads, stream
):
    gateway = start_gateway(make_own_target(**ASLEEP))
    answer = threads.submit(ask, client, gateway, stream=stream)
    wait_until(lambda: gateway.woken == [DEPLOYMENT])
    began = time.monotonic()
    engine = start_engine()
    gateway.route(organization, make_own_target(make_replica(engine), waits=Waits.ON_DEMAND))
    done = answer.result(20)
    took_ms = (time.monotonic() - began) * 1000
    assert done.status_code == 200
    assert 0 < int(done.headers["x-queue-wait-ms"]) <= took_ms + 1000
    assert "x-queue-wait-ms" not in ask(client, gateway).headers
    read_events(count=2)


def is_held(gateway: Any, count: int) -> bool:
    return bool(gateway.held() == count)


def test_fifty_are_held_and_answered_in_order(
    start_gateway, start_engine, organization, client, threads
):
    gateway = start_gateway(make_own_target(**ASLEEP))
    answers = []
    for number in range(50):
        answers.append(threads.submit(ask, client, gateway, text=f"number {number}"))
        wait_until(partial(is_held, gateway, number + 1))
    wait_until(lambda: (now := signals.read_now()) is not None and now.held_for(DEPLOYMENT) == 50)
    ended: list[int] = []
    for number, answer in enumerate(answers):
        answer.add_done_callback(lambda _, number=number: ended.append(number))
    engine = start_engine(max_concurrency=1, environment={"FAKE_DELAY_SECONDS": "0.005"})
    gateway.route(organization, make_own_target(make_replica(engine), waits=Waits.ON_DEMAND))
    assert {answer.result(30).status_code for answer in answers} == {200}
    assert ended == sorted(ended)
    assert gateway.held() == 0
    assert gateway.woken.count(DEPLOYMENT) <= 5  # not one message a request
    read_events(count=50)


def test_more_than_may_wait_are_refused_at_once(start_gateway, client, threads):
    gateway = start_gateway(make_own_target(**ASLEEP), most_held=2, demand_seconds=3.0)
    held = [threads.submit(ask, client, gateway) for _ in range(2)]
    wait_until(lambda: gateway.held() == 2)
    refused = ask(client, gateway)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "hold_queue_full"
    assert int(refused.headers["retry-after"]) > 0
    for each in held:
        assert each.result(10).json()["error"]["code"] == "hold_timed_out"


def test_the_wait_has_an_end_that_says_why(start_gateway, client):
    target = make_own_target(**ASLEEP, message="No pool has room.")
    gateway = start_gateway(target, demand_seconds=0.3)
    began = time.monotonic()
    refused = ask(client, gateway)
    assert 0.3 <= time.monotonic() - began < 5
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "hold_timed_out"
    assert "No pool has room." in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) > 0
    assert gateway.held() == 0


def test_a_client_that_hangs_up_leaves_the_queue(start_gateway, client):
    gateway = start_gateway(make_own_target(**ASLEEP))
    body = b'{"model":"tiny","messages":[]}'
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        f"authorization: {client.headers['authorization']}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port)) as line:
        line.sendall(head.encode() + body)
        wait_until(lambda: gateway.held() == 1)
    wait_until(lambda: gateway.held() == 0)


def test_where_nothing_will_come_nobody_waits(start_gateway, organization, client, threads):
    gateway = start_gateway(make_own_target(message="It failed five times."))
    refused = ask(client, gateway)
    assert refused.json()["error"]["code"] == "model_not_ready"
    gateway.route(organization, make_own_target(**ASLEEP))
    wait_until(lambda: is_asleep(gateway, organization))
    held = threads.submit(ask, client, gateway)
    wait_until(lambda: gateway.held() == 1)
    gateway.route(organization, make_own_target(message="It failed five times."))
    assert held.result(10).json()["error"]["code"] == "model_not_ready"


def test_a_model_that_goes_while_it_is_waited_for_is_gone(start_gateway, client, threads):
    gateway = start_gateway(make_own_target(**ASLEEP))
    held = threads.submit(ask, client, gateway)
    wait_until(lambda: gateway.held() == 1)
    gateway.source.routes = []
    assert held.result(10).status_code == 404


def test_a_key_that_is_revoked_while_its_request_is_held_gets_no_answer(
    start_gateway, start_engine, organization, client, threads
):
    gateway = start_gateway(make_own_target(**ASLEEP))
    held = threads.submit(ask, client, gateway)
    wait_until(lambda: gateway.held() == 1)
    ApiKey.objects.update(revoked_at=timezone.now())
    notices.publish(accounts.KEYS)
    prefix = ApiKey.objects.get().prefix
    wait_until(lambda: (key := gateway.directory.find_key(prefix)) and key.is_revoked)
    gateway.route(organization, make_own_target(make_replica(start_engine())))
    assert held.result(20).status_code == 401
    read_events(count=0)


def test_one_that_falls_asleep_with_a_request_on_its_way_is_woken(
    start_gateway, organization, client, threads
):
    gateway = start_gateway(make_own_target(waits=Waits.ON_DEMAND))  # not known to sleep
    held = threads.submit(ask, client, gateway)
    wait_until(lambda: gateway.held() == 1)
    assert not gateway.woken
    gateway.route(organization, make_own_target(**ASLEEP))
    wait_until(lambda: gateway.woken == [DEPLOYMENT])
    gateway.route(organization)
    held.result(10)


def test_the_crash_of_the_only_replica_costs_a_wait_and_no_error(
    start_gateway, start_engine, organization, client, threads
):
    engine = start_engine(environment={"FAKE_DELAY_SECONDS": "0.5"})
    target = make_own_target(make_replica(engine), waits=Waits.FOR_RESTART)
    gateway = start_gateway(target)
    begun = threads.submit(ask, client, gateway)  # is generated, and nothing of it has come
    wait_until(lambda: (now := signals.read_now()) is not None and now.in_flight)
    engine.process.kill()
    engine.process.wait()
    after = threads.submit(ask, client, gateway)
    wait_until(lambda: gateway.held() == 2)
    other = make_own_target(make_replica(start_engine()), waits=Waits.FOR_RESTART)
    gateway.route(organization, other)
    for each in (begun, after):
        done = each.result(10)
        assert done.status_code == 200
        assert int(done.headers["x-queue-wait-ms"]) > 0
    read_events(count=2)


def test_a_replica_that_is_back_at_the_same_place_is_tried_again(
    start_gateway, start_engine, client, threads
):
    replica = make_replica()  # nobody listens there yet
    gateway = start_gateway(make_own_target(replica, waits=Waits.FOR_RESTART))
    held = threads.submit(ask, client, gateway)
    wait_until(lambda: gateway.held() == 1)
    start_engine(port=replica.port, token=replica.token)
    assert held.result(10).status_code == 200


def test_an_engine_that_is_busy_is_not_waited_for(start_gateway, start_engine, client, threads):
    engine = start_engine(
        max_concurrency=1, max_waiting=0, environment={"FAKE_DELAY_SECONDS": "0.3"}
    )
    gateway = start_gateway(make_own_target(make_replica(engine), waits=Waits.FOR_RESTART))
    first = threads.submit(ask, client, gateway)
    wait_until(lambda: (now := signals.read_now()) is not None and now.in_flight)
    began = time.monotonic()
    assert ask(client, gateway).json()["error"]["code"] == "queue_full"
    assert time.monotonic() - began < 2
    assert first.result(10).status_code == 200


def test_the_official_client_needs_to_know_nothing(
    start_gateway, start_engine, organization, threads
):
    gateway = start_gateway(make_own_target(**ASLEEP))
    client: openai.OpenAI = gateway.client(make_key(organization))
    answer = threads.submit(
        lambda: client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3)
    )
    wait_until(lambda: gateway.held() == 1)
    gateway.route(organization, make_own_target(make_replica(start_engine())))
    assert answer.result(20).usage.completion_tokens == 3
