"""Engines on this node: one process a replica, kept by the process supervisor."""

import json
import logging
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from agent import memory_pressure
from agent.adapter_routes import AdapterRoutes
from agent.supervisor import Life, ProcessSupervisor
from engines import launchers
from engines.host import Ended, EngineSilent, Seen, ServeSpec, SpecError
from engines.metrics_reading import sum_gauges

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent
HEALTH_SECONDS = 2.0
PROOF_SECONDS = 30.0  # the first completion may compile kernels and fill caches
SILENCE_SECONDS = 20.0  # how long a healthy engine may fail to answer before it is unhealthy
KILL_MARGIN_SECONDS = 10.0  # past its own time for draining
LOG_TAIL_BYTES = 8000
LAST_WORDS_BYTES = 64_000  # an engine of several processes says its reason long before its end
KILLS_FILE = "memory_kills_before"  # what count_kills said at the start


class LocalEngineHost:
    """An EngineHost over real processes. What must survive a restart of the agent is in files
    beside the process's record: that it has been healthy, that it was asked to stop."""

    def __init__(
        self,
        root: Path,
        *,
        homes: Mapping[str, Path] | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`homes`: where each engine that needs an environment of its own is installed."""
        self.processes = ProcessSupervisor(root)
        self._homes = dict(homes or {})
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
            name = spec.name
            for path in (self._mark(name), self._stop_file(name), self._was_asked(name)):
                path.unlink(missing_ok=True)
            self._last_answer.pop(spec.name, None)
        launch = launchers.launch(
            spec,
            spec_path=self.processes.spec_path(spec.name),
            inherited=os.environ,
            home=self._homes.get(spec.engine),
        )
        files = {KILLS_FILE: str(memory_pressure.count_kills()), **launch.files}
        self.processes.start(
            spec.name,
            launch.command,
            env=launch.environment,
            cwd=PROJECT,
            spec=spec.to_json(),
            files=files,
        )

    def stop(self, name: str) -> None:
        """SIGTERM at the first call, SIGKILL at the first one past the deadline; an engine that has
        ended is forgotten, folder and all.

        An engine that would drop its open requests is asked only once it has none, or once they
        have had their time. Only its first process is asked: it ends its children in good order.
        """
        if self.processes.observe(name).life is not Life.RUNNING:
            self.processes.forget(name)
            self._last_answer.pop(name, None)
            return
        asked_at = self._asked_to_stop_at(name)
        if asked_at is None:
            asked_at = time.time()
            self._stop_file(name).write_text(str(asked_at))
        spec = self._read_spec(name)
        drain_seconds = spec.drain_seconds if spec is not None else 0.0
        waited = time.time() - asked_at
        if not 0 <= waited <= drain_seconds + KILL_MARGIN_SECONDS:
            logger.warning("engine %s does not end, killing it", name)
            self.processes.signal(name, signal.SIGKILL)
            return
        if self._was_asked(name).exists():
            return
        if spec is None or waited >= drain_seconds or not self._is_busy(spec):
            self._was_asked(name).touch()
            self.processes.signal(name, signal.SIGTERM, alone=True)

    def ended(self, name: str) -> Ended | None:
        """How the engine ended, as far as can be known; None while it runs or is not known."""
        sight = self.processes.observe(name)
        if sight.life is not Life.EXITED:
            return None
        kills = before = memory_pressure.count_kills()
        with suppress(FileNotFoundError, ValueError):
            before = int((self.processes.folder(name) / KILLS_FILE).read_text())
        return Ended(
            returncode=sight.returncode,
            memory_ran_out=kills > before,
            log=self._said(name, LAST_WORDS_BYTES),
        )

    def pid(self, name: str) -> int | None:
        sight = self.processes.observe(name)
        return sight.pid if sight.life is Life.RUNNING else None

    def log_tail(self, name: str) -> str:
        """The end of what the engine said, its token left out: engines print their settings."""
        return self._said(name, LOG_TAIL_BYTES)

    def _said(self, name: str, limit_bytes: int) -> str:
        said = self.processes.log_tail(name, limit_bytes=limit_bytes)
        spec = self._read_spec(name) if said else None
        return said.replace(spec.token, "***") if spec is not None else said

    def list_adapters(self, name: str) -> dict[str, str]:
        return self._adapters(name).list()

    def load_adapter(self, name: str, *, adapter_name: str, folder: str) -> None:
        self._adapters(name).load(adapter_name, folder)

    def unload_adapter(self, name: str, *, adapter_name: str) -> None:
        self._adapters(name).unload(adapter_name)

    def _adapters(self, name: str) -> AdapterRoutes:
        spec = self._read_spec(name) if self.pid(name) is not None else None
        if spec is None:
            raise EngineSilent(f"engine {name} does not run here")
        return AdapterRoutes(self._http, spec)

    def _mark(self, name: str) -> Path:
        return self.processes.folder(name) / "healthy"

    def _stop_file(self, name: str) -> Path:
        return self.processes.folder(name) / "stop_asked_at"

    def _was_asked(self, name: str) -> Path:
        return self.processes.folder(name) / "sigterm_sent"

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
        path = launchers.launcher_for(spec).health_path
        try:
            return self._http.get(f"http://{spec.host}:{spec.port}{path}").is_success
        except httpx.HTTPError:
            return False

    def _is_busy(self, spec: ServeSpec) -> bool:
        """Whether an engine that would drop its open requests has some. One that drains by itself
        is never busy; one that does not tell is not either."""
        gauges = launchers.launcher_for(spec).open_gauges
        if not gauges:
            return False
        headers = {"Authorization": f"Bearer {spec.token}"}
        try:
            said = self._http.get(f"http://{spec.host}:{spec.port}/metrics", headers=headers)
        except httpx.HTTPError:
            return False
        return said.is_success and sum_gauges(said.text, gauges) > 0

    def _completes(self, spec: ServeSpec) -> bool:
        """Whether it answers a real request: an open port with broken weights behind it does not."""
        short: dict[str, Any] = {"max_tokens": 1, "temperature": 0}
        base = f"http://{spec.host}:{spec.port}/v1"
        hello = {"messages": [{"role": "user", "content": "Hello"}]}
        asked = (
            (f"{base}/chat/completions", hello | short),
            (f"{base}/completions", {"prompt": "Hello"} | short),  # no chat template
            (f"{base}/embeddings", {"input": "Hello"}),  # a model that only reads
        )
        for url, body in asked:
            said = self._ask(url, {"model": spec.served_model_name} | body, spec.token)
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
                answer = response.json()
                return bool(answer.get("choices") or answer.get("data"))
            return None
        if response.status_code >= 500:
            logger.warning("%s refused its first completion: %s", url, response.text[:300])
            return None
        return False
