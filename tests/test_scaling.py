"""Asleep, awake and hurt: a real platform whose engine is the fake one, and clients that wait."""

import concurrent.futures
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from demo.job import MODEL_FOLDER
from demo.rest import Rest
from tests.platform_under_test import RunningPlatform, running_platform

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

START_SECONDS = 1.0  # that the engine takes to load
HELLO: Any = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def platform() -> Iterator[RunningPlatform]:
    with running_platform("--pool", "local") as platform:
        try:
            yield platform
        except BaseException:
            print(platform.logs())  # noqa: T201 - for the report of the failing test
            raise


@pytest.fixture(scope="module")
def key(platform: RunningPlatform) -> str:
    return platform.keys()["retail"]


@pytest.fixture(scope="module")
def rest(platform: RunningPlatform, key: str) -> Rest:
    return Rest(base_url=platform.base_url, key=key)


@pytest.fixture(scope="module")
def deployment(rest: Rest) -> str:
    """The path of a deployment that scales from none, and is asleep."""
    wanted = {
        "name": "sleeper-base",
        "source_kind": "folder",
        "source": str(MODEL_FOLDER),
        "licence": "Apache-2.0",
    }
    made = rest.post("imports/", wanted)
    rest.wait(f"imports/{made['id']}/", until={"succeeded"}, never={"failed"}, seconds=60)
    model = rest.named("models/", "sleeper-base")
    assert model is not None
    made = rest.post(
        "deployments/",
        {
            "name": "sleeper",
            "revision": rest.rows(f"models/{model['id']}/revisions/")[0]["id"],
            "engine": "fake",
            "replicas": 0,
            "settings": {"environment": {"FAKE_START_SECONDS": str(START_SECONDS)}},
        },
    )
    path = f"deployments/{made['id']}/"
    put_to_sleep(rest, path)
    return path


def put_to_sleep(rest: Rest, path: str) -> None:
    """As idleness would, without waiting for it: a person's number, then autoscaling again."""
    rest.put(f"{path}scale/", {"replicas": 0})
    rest.put(f"{path}autoscaling/", {"min_replicas": 0, "max_replicas": 1})
    rest.wait(path, until={"stopped"}, never={"failed"}, seconds=60)


def client_of(platform: RunningPlatform, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{platform.base_url}/v1", api_key=key, timeout=60, max_retries=8)


def ask(client: openai.OpenAI) -> tuple[int, float]:
    """The milliseconds that one answer was held, and the seconds that it took."""
    began = time.monotonic()
    raw = client.chat.completions.with_raw_response.create(
        model="sleeper", messages=HELLO, max_tokens=4
    )
    assert raw.parse().usage.completion_tokens == 4
    return int(raw.headers.get("x-queue-wait-ms", "0")), time.monotonic() - began


def test_the_first_request_wakes_the_model_and_is_answered(
    platform: RunningPlatform, rest: Rest, key: str, deployment: str
) -> None:
    held, took = ask(client_of(platform, key))
    assert held >= START_SECONDS * 1000
    assert took < START_SECONDS + 15
    events = rest.rows(f"{deployment}scaling-events/")
    assert events[0]["message"] == "0 -> 1: a request waits"
    woken_after, _ = ask(client_of(platform, key))
    assert woken_after == 0


def test_when_the_only_engine_is_killed_requests_wait_and_none_fails(
    platform: RunningPlatform, rest: Rest, key: str, deployment: str
) -> None:
    ask(client_of(platform, key))
    (engine,) = platform.node_processes("engines.fake")
    platform.kill(engine)
    client = client_of(platform, key).with_options(max_retries=0)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(ask, client) for _ in range(8)]
        assert max(answer.result(60)[0] for answer in answers) > 0


def test_clients_that_wait_outlive_the_gateway(
    platform: RunningPlatform, rest: Rest, key: str, deployment: str
) -> None:
    put_to_sleep(rest, deployment)
    client = client_of(platform, key)
    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        answers = [threads.submit(ask, client) for _ in range(20)]
        deadline = time.monotonic() + 20
        while not rest.rows(f"{deployment}scaling-events/")[0]["to_replicas"]:
            assert time.monotonic() < deadline
        platform.kill(platform.service("uvicorn"))
        assert len([answer.result(90) for answer in answers]) == 20


def test_fifty_at_once_are_all_answered(
    platform: RunningPlatform, rest: Rest, key: str, deployment: str
) -> None:
    put_to_sleep(rest, deployment)
    client = client_of(platform, key).with_options(max_retries=0)
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = [threads.submit(ask, client) for _ in range(50)]
        held = [answer.result(90)[0] for answer in answers]
    assert min(held) > 0
    # Signals are written once a second; where Redis waits for a busy disk, later.
    deadline = time.monotonic() + 60
    while (load := rest.get(f"{deployment}autoscaling/")["load"]) is None or load["held"]:
        assert time.monotonic() < deadline, f"{load}\n{platform.logs()}"
        time.sleep(0.1)
