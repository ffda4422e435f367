"""A served model on two nodes of real processes, steady load on it, and ways to hurt what serves.

Replicas run the fake engine, so that faults and not arithmetic decide; everything around it is the
platform as `manage.py up` starts it, with a second agent as a second node.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from demo.job import MODEL_FOLDER
from demo.rest import Rest
from factory import embedded
from tests.platform_under_test import ROOT, RunningPlatform

MODEL = "faulty"
REPLICAS = 3  # of four accelerators on two nodes: one is left for a replacement
ENGINE = "engines.fake"
WORDS = 12
WORD_SECONDS = 0.01
DRAIN_SECONDS = 5
WHOLE_SECONDS = 90.0


@dataclass
class Outcome:
    """What became of requests. `refused` were answered by an error, or not at all, before a byte of
    an answer; `broken` had begun to stream."""

    answered: int = 0
    refused: int = 0
    broken: int = 0
    problems: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0
    last_refused_at: float | None = None

    @property
    def asked(self) -> int:
        return self.answered + self.refused + self.broken

    def note(self, problem: str) -> None:
        if len(self.problems) < 20:
            self.problems.append(problem)


class Load:
    """Clients that ask again as soon as they are answered, one in four by stream; never twice for
    the same request. Use as a context manager; read `outcome` afterwards."""

    def __init__(self, *, base_url: str, key: str, clients: int = 6) -> None:
        self.outcome = Outcome()
        self._base_url, self._key, self._clients = base_url, key, clients
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(150)
        assert not self._thread.is_alive(), "a request never ended"

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(
            base_url=self._base_url, headers=headers, timeout=120
        ) as client:
            await asyncio.gather(*(self._ask_on(client, number) for number in range(self._clients)))

    async def _ask_on(self, client: httpx.AsyncClient, number: int) -> None:
        asked = number
        while not self._over.is_set():
            asked += 1
            began = time.monotonic()
            await self._ask(client, stream=asked % 4 == 0)
            took = time.monotonic() - began
            self.outcome.longest_seconds = max(self.outcome.longest_seconds, took)
            await asyncio.sleep(max(0.0, 0.1 - took))  # also paces those that are refused at once

    async def _ask(self, client: httpx.AsyncClient, *, stream: bool) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Where is order {random.random()}?"}],
            "stream": stream,
        }
        text, status = b"", 0
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                status = answer.status_code
                async for part in answer.aiter_bytes():
                    text += part
        except httpx.HTTPError as error:
            self._failed(status == 200, f"{type(error).__name__} {error}")
            return
        if status != 200:
            self._failed(False, f"{status} {text[:200]!r}")
        elif stream and not text.rstrip().endswith(b"data: [DONE]"):
            self._failed(True, f"stream ended with {text[-200:]!r}")
        else:
            self.outcome.answered += 1

    def _failed(self, begun: bool, problem: str) -> None:
        if begun:
            self.outcome.broken += 1
        else:
            self.outcome.refused += 1
            self.outcome.last_refused_at = time.monotonic()
        self.outcome.note(problem)


class SecondNode:
    """Another agent of the same platform, as if on another machine."""

    def __init__(self, platform: RunningPlatform) -> None:
        self._platform = platform
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "manage.py", "agent", "--name", "node-b", "--pool", "local"]
        with (self._platform.data / "node-b.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--cpu-accelerators", "2", "--stop-processes-on-exit"],
                cwd=ROOT,
                env=self._platform.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """The agent alone; its engines live on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def vanish(self, engines: list[psutil.Process]) -> None:
        """As a machine that loses power: the agent and all of its engines at once."""
        self.kill()
        for engine in engines:
            if any("node-b" in part for part in engine.cmdline()):
                engine.kill()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
            self._process.kill()


@dataclass
class Served:
    """The deployment under test and what it stands on."""

    platform: RunningPlatform
    rest: Rest
    key: str
    second: SecondNode
    deployment: str

    def load(self, clients: int = 6) -> Load:
        return Load(base_url=self.platform.base_url, key=self.key, clients=clients)

    def engines(self) -> list[psutil.Process]:
        return self.platform.node_processes(ENGINE)

    def is_whole(self) -> bool:
        """As many replicas answer as are wanted, and no more run."""
        with suppress(httpx.HTTPError):
            replicas = self.rest.rows(f"deployments/{self.deployment}/replicas/")
            live = [row for row in replicas if row["ended_at"] is None]
            ready = [row for row in live if row["status"] == "ready"]
            return len(ready) == len(live) == REPLICAS and len(self.engines()) == REPLICAS
        return False

    def ready_on(self) -> dict[str, int]:
        """Ready replicas by node."""
        found: dict[str, int] = {}
        for row in self.rest.rows(f"deployments/{self.deployment}/replicas/"):
            if row["status"] == "ready":
                found[row["node_name"]] = found.get(row["node_name"], 0) + 1
        return found

    def wait_until_whole(self, seconds: float = WHOLE_SECONDS) -> float:
        """Seconds that it took; an AssertionError with the logs' ends if it takes longer."""
        return self.wait(self.is_whole, seconds, "the deployment does not become whole")

    def wait(self, condition: Callable[[], bool], seconds: float, problem: str) -> float:
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                raise AssertionError(
                    f"{problem} within {seconds:.0f} s\n{self.told()}\n{self.platform.logs()}"
                )
            time.sleep(0.25)
        return time.monotonic() - began

    def told(self) -> str:
        """What the platform says of the deployment and its replicas."""
        rows: list[Any] = [self.rest.get(f"deployments/{self.deployment}/")]
        rows += self.rest.rows(f"deployments/{self.deployment}/replicas/")[:8]
        keys = ("name", "status", "status_reason", "message", "node_name", "wanted")
        return "\n".join(str({key: row.get(key) for key in keys}) for row in rows)


@contextmanager
def served_model(platform: RunningPlatform) -> Iterator[Served]:
    """The fake engine deployed on both nodes and whole; gone without a trace afterwards."""
    keys = platform.keys()
    rest = Rest(base_url=platform.base_url, key=keys["retail"])
    operator = Rest(base_url=platform.base_url, key=keys["platform"])
    second = SecondNode(platform)
    second.start()
    try:
        wanted = operator.post(
            "imports/",
            {
                "name": "tiny",
                "source_kind": "folder",
                "source": str(MODEL_FOLDER),
                "visibility": "shared",
            },
        )
        operator.wait(f"imports/{wanted['id']}/", until={"succeeded"}, never={"failed"}, seconds=60)
        model = operator.named("models/", "tiny")
        assert model is not None
        revision = operator.rows(f"models/{model['id']}/revisions/")[0]
        deployment = rest.post(
            "deployments/",
            {
                "name": MODEL,
                "revision": revision["id"],
                "engine": "fake",
                "replicas": REPLICAS,
                "accelerators_per_replica": 1,
                "settings": {
                    "drain_seconds": DRAIN_SECONDS,
                    "environment": {
                        "FAKE_TOKENS": str(WORDS),
                        "FAKE_DELAY_SECONDS": str(WORD_SECONDS),
                    },
                },
            },
        )
        served = Served(platform, rest, keys["retail"], second, deployment["id"])
        served.wait_until_whole()
        yield served
    finally:
        second.stop()


# --- what goes wrong; each does its damage and returns -----------------------------------------


def kill_engine(served: Served) -> None:
    engine = random.choice(served.engines())
    engine.kill()


def pause_engine(served: Served) -> None:
    """Slow rather than dead: stopped for a moment, over and over."""
    engine = random.choice(served.engines())
    for _ in range(4):
        with suppress(psutil.NoSuchProcess):
            engine.suspend()
            time.sleep(0.3)
            engine.resume()
        time.sleep(0.2)


def hang_engine(served: Served) -> None:
    """It accepts connections and never answers; only the platform can help."""
    engine = random.choice(served.engines())
    os.kill(engine.pid, signal.SIGSTOP)


def kill_agent(served: Served) -> None:
    _kill_service(served, "manage.py", "agent")


def kill_second_agent(served: Served) -> None:
    served.second.kill()
    served.second.start()


def vanish_node(served: Served) -> None:
    """A node loses power and is back a little later."""
    served.second.vanish(served.engines())
    time.sleep(3)
    served.second.start()


def kill_control(served: Served) -> None:
    _kill_service(served, "celery", "worker")


def kill_beat(served: Served) -> None:
    _kill_service(served, "celery", "beat")


def _kill_service(served: Served, *words: str) -> None:
    """One that was killed a moment ago may still be about to start again."""
    served.wait(lambda: served.platform.service(*words) is not None, 60, f"no {words} to kill")
    served.platform.kill(served.platform.service(*words))


def restart_broker(served: Served) -> None:
    embedded.stop_redis(served.platform.data)
    time.sleep(1)
    embedded.start_redis(served.platform.data)


def restart_database(served: Served) -> None:
    embedded.stop_postgres(served.platform.data)
    time.sleep(2)
    embedded.start_postgres(served.platform.data)


PASSING = (  # faults after which service is whole in seconds: for a soak
    kill_engine,
    pause_engine,
    kill_agent,
    kill_second_agent,
    vanish_node,
    kill_control,
    kill_beat,
    restart_broker,
    restart_database,
)
