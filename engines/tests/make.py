"""Specs, tiny models and running engines for tests."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import httpx
import openai

from engines import launchers
from engines.host import ServeSpec

ROOT = Path(__file__).resolve().parents[2]


def make_spec(**changes: Any) -> ServeSpec:
    """A sound spec of a fake engine on a free port, but for `changes`."""
    values: dict[str, Any] = {
        "name": "replica-1",
        "engine": "fake",
        "model_path": "/nonexistent/model",
        "served_model_name": "tiny",
        "token": "test-token",
        "device": "cpu",
        "dtype": "float32",
        "drain_seconds": 10.0,
    }
    values |= changes
    values.setdefault("port", free_port())
    return ServeSpec(**values)


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningEngine:
    """A real engine process, started as an agent would start it."""

    def __init__(self, spec: ServeSpec, folder: Path) -> None:
        self.spec = spec
        spec_path = folder / f"{spec.name}-{spec.port}.json"
        spec_path.write_text(spec.to_json())
        launch = launchers.launch(spec, spec_path=spec_path, inherited=os.environ)
        self.log_path = spec_path.with_suffix(".log")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                launch.command, env=launch.environment, cwd=ROOT, stdout=log, stderr=log
            )
        self.url = f"http://{spec.host}:{spec.port}"
        self._http = httpx.Client(base_url=self.url, headers=self.headers, timeout=30)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.spec.token}"}

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def health(self) -> tuple[int, str]:
        """Status and body of /health; (0, "") while nothing listens."""
        try:
            answer = self._http.get("/health")
        except httpx.ConnectError:
            return 0, ""
        return answer.status_code, answer.text

    def wait_ready(self, *, seconds: float = 60) -> Self:
        deadline = time.monotonic() + seconds
        while self.health()[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"not ready ({self.process.poll()}): {self.log}")
            time.sleep(0.05)
        return self

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.spec.token, max_retries=0, timeout=60
        )

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self._http.get("/metrics").raise_for_status().text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))

    def wait_metric(self, name: str, value: float, *, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while (now := self.metric(name)) != value:
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} is {now}, not {value}")
            time.sleep(0.02)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        self._http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
