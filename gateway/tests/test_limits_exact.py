"""A budget of exactly K requests, spent by 64 clients through four gateway processes."""

import concurrent.futures
import itertools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from django.conf import settings
from redis import Redis

from accounts.services import hash_secret, prefix_of
from engines.tests.make import RunningEngine, free_port, make_spec
from gateway.limits.rules import Rule
from gateway.limits.shared import spent_key

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
SECRET = "sk-af-0123456789-" + "s" * 43
PROCESSES, CLIENTS = 4, 64
ALIVE_SECONDS = 3
SLOW = {"FAKE_TOKENS": "2000", "FAKE_DELAY_SECONDS": "0.02"}  # unless a request asks for fewer


class Gateways:
    """Processes that keep one limit together."""

    def __init__(self, engine: RunningEngine, amount: int) -> None:
        self.rule = Rule(id=str(uuid4()), measure="requests", period="day", amount=amount)
        rule = {"id": self.rule.id, "measure": "requests", "period": "day", "amount": amount}
        said = {
            "redis_url": settings.REDIS_URL,
            "alive_seconds": ALIVE_SECONDS,
            "rule": rule,
            "deployment_id": str(uuid4()),
            "replica": {
                "id": str(uuid4()),
                "host": "127.0.0.1",
                "port": engine.spec.port,
                "token": engine.spec.token,
            },
            "key": {
                "id": str(uuid4()),
                "name": "ci",
                "prefix": prefix_of(SECRET),
                "secret_hash": hash_secret(SECRET).hex(),
                "organization_id": str(uuid4()),
            },
        }
        environment = os.environ | {
            "LIMITED": orjson.dumps(said).decode(),
            "FACTORY_SECRET_KEY": settings.SECRET_KEY,
            "DJANGO_SETTINGS_MODULE": "factory.settings.test",
        }
        self.ports = [free_port() for _ in range(PROCESSES)]
        self.processes = [self._start(port, environment) for port in self.ports]
        for port in self.ports:
            _wait_for(port)

    def _start(self, port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "uvicorn", "gateway.tests.limited_gateway:application"]
        command += ["--port", str(port), "--log-level", "warning", "--no-access-log"]
        return subprocess.Popen(command, cwd=ROOT, env=environment)

    def ask(self, client: httpx.Client, index: int, **fields) -> httpx.Response:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
        return client.post(
            f"http://127.0.0.1:{self.ports[index]}/v1/chat/completions",
            json=body | {"max_tokens": 1} | fields,
            headers={"Authorization": f"Bearer {SECRET}"},
        )

    def spend(self, number: int, indices: list[int]) -> int:
        """One client that asks whichever process is next until it was refused three times."""
        answered, refused = 0, 0
        turn = itertools.cycle(indices[number % len(indices) :] + indices[: number % len(indices)])
        with httpx.Client(timeout=60) as client:
            while refused < 3:
                answer = self.ask(client, next(turn))
                if answer.status_code == 200:
                    answered += 1
                else:
                    assert answer.status_code == 429, answer.text
                    assert answer.json()["error"]["code"] == "insufficient_quota"
                    refused += 1
        return answered

    def spend_all(self, indices: list[int]) -> int:
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
            spent = threads.map(lambda number: self.spend(number, indices), range(CLIENTS))
            return sum(spent)

    def wait_spent(self, count: int) -> None:
        client = Redis.from_url(settings.REDIS_URL)
        deadline = time.monotonic() + 20
        while True:
            told: Any = client.hget(spent_key(self.rule, at=time.time()), "spent")
            found = int(told or 0)
            if found == count:
                client.close()
                return
            assert time.monotonic() < deadline, (found, count)
            time.sleep(0.02)

    def wait_held(self, count: int) -> None:
        """Until so many requests are open, as Redis knows it."""
        client = Redis.from_url(settings.REDIS_URL)
        deadline = time.monotonic() + 20
        while True:
            fields: Any = client.hgetall(spent_key(self.rule, at=time.time()))
            held = sum(int(value) for name, value in fields.items() if name.startswith(b"h:"))
            if held == count:
                client.close()
                return
            assert time.monotonic() < deadline, fields
            time.sleep(0.02)

    def stop(self) -> None:
        for each in self.processes:
            each.terminate()
        for each in self.processes:
            try:
                each.wait(20)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def slow_engine(tmp_path_factory):
    spec = make_spec(environment=SLOW, max_concurrency=256)
    running = RunningEngine(spec, tmp_path_factory.mktemp("engine"))
    yield running.wait_ready()
    running.stop()


@pytest.fixture
def start_gateways(slow_engine):
    started: list[Gateways] = []

    def start(amount: int) -> Gateways:
        started.append(Gateways(slow_engine, amount))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def test_exactly_so_many_succeed_and_a_dead_gateway_takes_nothing_with_it(start_gateways):
    gateways = start_gateways(int(os.environ.get("LIMIT_REQUESTS", "600")))
    amount = gateways.rule.amount
    before = 0
    with httpx.Client(timeout=60) as client:
        for index in itertools.islice(itertools.cycle(range(PROCESSES)), amount // 4):
            before += int(gateways.ask(client, index).status_code == 200)
    assert before == amount // 4
    gateways.wait_spent(before)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        open_ones = [threads.submit(_ask_and_be_cut, gateways) for _ in range(8)]
        gateways.wait_held(8)
        gateways.processes[0].kill()
        assert [each.result(30) for each in open_ones] == [True] * 8
    answered = before + gateways.spend_all([1, 2, 3])
    deadline = time.monotonic() + 30
    while answered < amount and time.monotonic() < deadline:
        time.sleep(0.5)  # until nobody believes any more that the dead one lives
        answered += gateways.spend_all([1, 2, 3])
    assert answered == amount
    gateways.wait_spent(amount)


def _ask_and_be_cut(gateways: Gateways) -> bool:
    try:
        with httpx.Client(timeout=60) as client:
            gateways.ask(client, 0, stream=True, max_tokens=2000)
    except httpx.TransportError:
        return True
    return False


def test_sixty_four_clients_and_four_processes_spend_exactly_the_budget(start_gateways):
    gateways = start_gateways(int(os.environ.get("LIMIT_REQUESTS", "600")))
    assert gateways.spend_all([0, 1, 2, 3]) == gateways.rule.amount
    gateways.wait_spent(gateways.rule.amount)
