"""Engines that accept and never answer: real processes that are stopped, and others that answer."""

import concurrent.futures
import signal
import time
from collections.abc import Callable

import httpx
import pytest

from accounts.tests.make import make_key, make_organization
from deployments import signals
from engines.tests.make import RunningEngine, make_spec
from gateway.directory import Waits
from gateway.holding import HoldSettings
from gateway.tests.make import RunningGateway, make_replica, make_target, read_events
from gateway.watch import WatchSettings

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]

QUICK = WatchSettings(every=0.1, silence=0.5, health=1.5)


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
def gateway():
    running = RunningGateway(watch=QUICK, hold=HoldSettings(restart_seconds=20)).start()
    yield running
    running.stop()


@pytest.fixture
def client(organization):
    headers = {"Authorization": f"Bearer {make_key(organization)}"}
    with httpx.Client(headers=headers, timeout=30) as client:
        yield client


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


def ask(client: httpx.Client, gateway: RunningGateway, *, max_tokens: int = 4) -> httpx.Response:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": "tiny", "messages": messages, "max_tokens": max_tokens}
    return client.post(f"{gateway.url}/v1/chat/completions", json=body)


def wait_until(is_so: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_requests_on_a_hung_engine_go_to_another_and_count_once(
    gateway, start_engine, organization, client, threads
):
    stopped, well = start_engine(name="stopped"), start_engine(name="well")
    gateway.route(organization, make_target(make_replica(stopped), make_replica(well)))
    wait_until(lambda: gateway.directory.find_route(str(organization.pk), "tiny"))
    stopped.process.send_signal(signal.SIGSTOP)
    answers = [threads.submit(ask, client, gateway) for _ in range(12)]
    assert {each.result(20).status_code for each in answers} == {200}
    began = time.monotonic()
    assert {ask(client, gateway).status_code for _ in range(8)} == {200}
    assert time.monotonic() - began < 4  # none goes there any more
    read_events(count=20)


def test_the_only_engine_that_hangs_is_waited_for_and_used_again(
    gateway, start_engine, organization, client, threads
):
    engine = start_engine()
    replica = make_replica(engine)
    gateway.route(organization, make_target(replica, waits=Waits.FOR_RESTART))
    wait_until(lambda: ask(client, gateway).status_code == 200)
    engine.process.send_signal(signal.SIGSTOP)
    answer = threads.submit(ask, client, gateway)
    wait_until(lambda: gateway.held() == 1)
    engine.process.send_signal(signal.SIGCONT)
    assert answer.result(20).status_code == 200


def test_an_engine_that_takes_long_and_is_well_is_left_in_peace(
    gateway, start_engine, organization, client, threads
):
    engine = start_engine(environment={"FAKE_DELAY_SECONDS": "0.6"})
    replica = make_replica(engine)
    gateway.route(organization, make_target(replica))
    wait_until(lambda: gateway.directory.find_replica((replica.host, replica.port)))
    answer = threads.submit(ask, client, gateway)
    wait_until(lambda: (now := signals.read_now()) is not None and now.silent.get(replica.id))
    assert answer.result(20).status_code == 200
    read_events(count=1)


def test_a_long_answer_that_is_not_streamed_does_not_pass_for_silence(
    start_engine, organization, client, threads
):
    watch = WatchSettings(every=0.1, silence=0.2, proof=0.8)
    running = RunningGateway(watch=watch).start()
    try:
        engine = start_engine(environment={"FAKE_DELAY_SECONDS": "0.6"})
        replica = make_replica(engine)
        running.route(organization, make_target(replica))
        wait_until(lambda: running.directory.find_replica((replica.host, replica.port)))
        answer = threads.submit(ask, client, running, max_tokens=9)
        longest = 0.0
        while not answer.done():
            told = signals.read_now()
            longest = max(longest, told.silent.get(replica.id, 0.0) if told is not None else 0.0)
            time.sleep(0.1)
        assert answer.result().status_code == 200
        assert longest < 3.5  # of more than five seconds
        read_events(count=1)  # what the gateway asks for itself is nobody's usage
    finally:
        running.stop()
