"""Engines on this node: one process a replica, kept by the process supervisor."""

import json
import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from agent.supervisor import Life, ProcessSupervisor
from engines import launchers
from engines.host import Seen, ServeSpec, SpecError

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent
HEALTH_SECONDS = 2.0
PROOF_SECONDS = 30.0  # the first completion may compile kernels and fill caches
SILENCE_SECONDS = 20.0  # how long a healthy engine may fail to answer before it is unhealthy
KILL_MARGIN_SECONDS = 5.0  # past its own time for draining
LOG_TAIL_BYTES = 8000


class LocalEngineHost:
    """An EngineHost over real processes. What must survive a restart of the agent is in files
    beside the process's record: that it has been healthy, that it was asked to stop."""

    def __init__(self, root: Path, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self.processes = ProcessSupervisor(root)
        self._silence_seconds = silence_seconds
        self._last_answer: dict[str, float] = {}  # by name, monotonic
        self._http = httpx.Client(timeout=HEALTH_SECONDS, trust_env=False)

    def observe(self, name: str) -> Seen:
        """The process, then its health route; before it is called healthy for the first time, one
        real completion."""
        sight = self.processes.observe(name)
        if sight.life is Life.ABSENT:
            return Seen.ABSENT
        if sight.life is Life.EXITED:
            self._last_answer.pop(name, None)
            return Seen.EXITED
        spec = self._read_spec(name)
        if spec is None:
            return Seen.STARTING
        was_healthy = self._mark(name).exists()
        answers = self._answers_health(spec)
        if answers and not was_healthy and self._completes(spec):
            self._mark(name).touch()
            was_healthy = True
        if answers and was_healthy:
            self._last_answer[name] = time.monotonic()
            return Seen.HEALTHY
        if not was_healthy:
            return Seen.STARTING
        # Not heard of yet: as after a restart of the agent. It gets its whole time.
        silence = time.monotonic() - self._last_answer.setdefault(name, time.monotonic())
        return Seen.UNHEALTHY if silence > self._silence_seconds else Seen.HEALTHY

    def start(self, spec: ServeSpec) -> None:
        """Starts the engine's process. Raises SpecError, or OSError if it cannot be started."""
        if self.processes.observe(spec.name).life is not Life.RUNNING:
            for path in (self._mark(spec.name), self._stop_file(spec.name)):
                path.unlink(missing_ok=True)
            self._last_answer.pop(spec.name, None)
        launch = launchers.launch(
            spec, spec_path=self.processes.spec_path(spec.name), inherited=os.environ
        )
        self.processes.start(
            spec.name, launch.command, env=launch.environment, cwd=PROJECT, spec=spec.to_json()
        )

    def stop(self, name: str) -> None:
        """SIGTERM at the first call, SIGKILL at the first one past the deadline; an engine that has
        ended is forgotten, folder and all."""
        if self.processes.observe(name).life is not Life.RUNNING:
            self.processes.forget(name)
            self._last_answer.pop(name, None)
            return
        asked_at = self._asked_to_stop_at(name)
        if asked_at is None:
            self._stop_file(name).write_text(str(time.time()))
            self.processes.signal(name, signal.SIGTERM)
            return
        spec = self._read_spec(name)
        patience = (spec.drain_seconds if spec is not None else 0.0) + KILL_MARGIN_SECONDS
        if not 0 <= time.time() - asked_at <= patience:
            logger.warning("engine %s does not end, killing it", name)
            self.processes.signal(name, signal.SIGKILL)

    def pid(self, name: str) -> int | None:
        sight = self.processes.observe(name)
        return sight.pid if sight.life is Life.RUNNING else None

    def log_tail(self, name: str) -> str:
        return self.processes.log_tail(name, limit_bytes=LOG_TAIL_BYTES)

    def _mark(self, name: str) -> Path:
        return self.processes.folder(name) / "healthy"

    def _stop_file(self, name: str) -> Path:
        return self.processes.folder(name) / "stop_asked_at"

    def _asked_to_stop_at(self, name: str) -> float | None:
        with suppress(FileNotFoundError, ValueError):
            return float(self._stop_file(name).read_text())
        return None

    def _read_spec(self, name: str) -> ServeSpec | None:
        try:
            return ServeSpec.from_json(self.processes.spec_path(name).read_bytes())
        except (OSError, SpecError):
            logger.exception("engine %s has lost its spec", name)
            return None

    def _answers_health(self, spec: ServeSpec) -> bool:
        path = launchers.launcher_for(spec.engine).health_path
        try:
            return self._http.get(f"http://{spec.host}:{spec.port}{path}").is_success
        except httpx.HTTPError:
            return False

    def _completes(self, spec: ServeSpec) -> bool:
        """Whether it answers a real request: an open port with broken weights behind it does not."""
        body = {"model": spec.served_model_name, "max_tokens": 1, "temperature": 0}
        base = f"http://{spec.host}:{spec.port}/v1"
        asked = (
            (f"{base}/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
            (f"{base}/completions", {"prompt": "Hello"}),  # a base model without a chat template
        )
        for url, more in asked:
            said = self._ask(url, body | more, spec.token)
            if said is None:
                return False
            if said:
                return True
        return False

    def _ask(self, url: str, body: dict[str, Any], token: str) -> bool | None:
        """True: it answered. False: it refuses this kind of request. None: not now."""
        try:
            response = self._http.post(
                url,
                json=body,
                headers={"Authorization": f"Bearer {token}"},
                timeout=PROOF_SECONDS,
            )
        except httpx.HTTPError:
            return None
        if response.is_success:
            with suppress(json.JSONDecodeError):
                return bool(response.json().get("choices"))
            return None
        if response.status_code >= 500:
            logger.warning("%s refused its first completion: %s", url, response.text[:300])
            return None
        return False
