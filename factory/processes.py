"""The platform's processes on one machine, kept running until told to stop.

Embedded services where no URL is given, then web, control, beat and one local agent as child
processes. A child that dies is started again, with a growing pause while it keeps dying.
"""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from django.conf import settings

from factory import embedded

PR_SET_PDEATHSIG = 1  # prctl(2)
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
STEADY_SECONDS = 30.0  # a child that lived this long starts again at once
LONGEST_PAUSE_SECONDS = 30.0


class PlatformError(Exception):
    """The platform cannot run here as asked; the message names the remedy."""


@dataclass
class Child:
    """One process of the platform."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    start_after: float = 0.0


@dataclass
class Platform:
    """Start with `start()`, call `tend()` about once a second, end with `stop()`."""

    say: Callable[[str], None]
    agent_options: list[str] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)

    @property
    def logs(self) -> Path:
        return Path(settings.FACTORY_DATA) / "logs"

    def start(self) -> None:
        """Start everything and wait until the web process is ready. Raises PlatformError."""
        start_services()
        parts = urlsplit(settings.FACTORY_BASE_URL)
        host, port = parts.hostname or "127.0.0.1", parts.port or 8000
        _check_port(host, port)
        python, celery = sys.executable, "-m celery -A factory.celery"
        schedule = str(Path(settings.FACTORY_DATA) / "beat-schedule")
        web = f"-m uvicorn factory.asgi:application --host {host} --port {port}"
        worker = f"{celery} worker -Q control -n control@%h -l INFO --pool threads -c 8"
        self.children = [
            Child("web", [python, *web.split(), "--lifespan", "on", "--no-access-log"]),
            Child("control", [python, *worker.split(), "--without-gossip", "--without-mingle"]),
            Child("beat", [python, *celery.split(), "beat", "--pidfile=", "-s", schedule]),
            Child("agent", [python, "manage.py", "agent", *self.agent_options]),
        ]
        self.logs.mkdir(parents=True, exist_ok=True)
        for child in self.children:
            self._spawn(child)
        self._wait_until_ready()

    def tend(self) -> None:
        """Start again what has died."""
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                if now >= child.start_after:
                    self._spawn(child)
                continue
            code = child.process.poll()
            if code is None:
                continue
            child.process = None
            child.deaths = 1 if now - child.started_at > STEADY_SECONDS else child.deaths + 1
            pause = 0.0 if child.deaths == 1 else min(2.0**child.deaths, LONGEST_PAUSE_SECONDS)
            child.start_after = now + pause
            self.say(f"{child.name} ended ({code}), starting it again; see {self._log(child)}")

    def stop(self) -> None:
        """End the children, the agent last, then the embedded services."""
        for names in ({"web", "beat", "control"}, {"agent"}):
            chosen = [child for child in self.children if child.name in names and child.process]
            for child in chosen:
                _terminate(child)
            deadline = time.monotonic() + STOP_SECONDS
            for child in chosen:
                _wait_or_kill(child, deadline)
        stop_services()

    def _spawn(self, child: Child) -> None:
        with self._log(child).open("ab") as log:
            child.process = subprocess.Popen(
                child.command,
                cwd=settings.BASE_DIR,
                env=os.environ | environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent,
            )
        child.started_at = time.monotonic()

    def _log(self, child: Child) -> Path:
        return self.logs / f"{child.name}.log"

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        web = self.children[0]
        while time.monotonic() < deadline:
            if web.process is not None and web.process.poll() is not None:
                tail = self._log(web).read_text(errors="replace").splitlines()[-12:]
                raise PlatformError("The web process ended at once:\n" + "\n".join(tail))
            try:
                if httpx.get(f"{settings.FACTORY_BASE_URL}/readyz", timeout=2).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise PlatformError(
            f"The platform is not ready after {READY_SECONDS:.0f} s: see {self.logs}"
        )


def environment() -> dict[str, str]:
    """What the children must know to find the same services and the same key."""
    return {
        "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "factory.settings.dev"),
        "FACTORY_DATA": str(settings.FACTORY_DATA),
        "FACTORY_STORAGE": str(settings.FACTORY_STORAGE),
        "FACTORY_BASE_URL": settings.FACTORY_BASE_URL,
        "FACTORY_SECRET_KEY": settings.SECRET_KEY,
        "PYTHONUNBUFFERED": "1",
    }


def start_services() -> None:
    """The embedded services, where no URL names others. Raises PlatformError."""
    try:
        if settings.FACTORY_EMBEDDED_POSTGRES:
            embedded.start_postgres(settings.FACTORY_DATA)
        if settings.FACTORY_EMBEDDED_REDIS:
            embedded.start_redis(settings.FACTORY_DATA)
    except embedded.EmbeddedServiceError as error:
        raise PlatformError(str(error)) from error


def stop_services() -> None:
    """The embedded services, those that are ours."""
    if settings.FACTORY_EMBEDDED_REDIS:
        embedded.stop_redis(settings.FACTORY_DATA)
    if settings.FACTORY_EMBEDDED_POSTGRES:
        embedded.stop_postgres(settings.FACTORY_DATA)


@contextmanager
def only_platform_here() -> Iterator[None]:
    """Hold the data folder for this process. Raises PlatformError if another has it."""
    folder = Path(settings.FACTORY_DATA)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "up.lock").open("a+")
    except OSError as error:
        raise PlatformError(
            f"Cannot write to {folder} ({error.strerror}): set FACTORY_DATA to another folder."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise PlatformError(
                f"A platform is running on {folder} already (pid {file.read().strip()}).\n"
                "Stop it, or set FACTORY_DATA and FACTORY_BASE_URL to run another beside it."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PlatformError(
                f"Port {port} on {host} cannot be used ({error.strerror}).\n"
                f"Choose another: FACTORY_BASE_URL=http://{host}:{port + 1} make ..."
            ) from error


def _end_with_parent() -> None:
    """In the child: a new session of its own, and SIGTERM when the parent dies, even by kill -9."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _terminate(child: Child) -> None:
    if child.process is not None and child.process.poll() is None:
        child.process.terminate()


def _wait_or_kill(child: Child, deadline: float) -> None:
    if child.process is None:
        return
    try:
        child.process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()
