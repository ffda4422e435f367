"""The real platform on a data folder of its own, and the means to hurt it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 120


@dataclass
class RunningPlatform:
    """`manage.py up` as a child process."""

    data: Path
    base_url: str
    process: subprocess.Popen[bytes]
    environment: dict[str, str]

    def manage(self, *arguments: str) -> str:
        """Run a management command against the same data; its output."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout

    def keys(self) -> dict[str, str]:
        keys: dict[str, str] = json.loads(self.manage("demo_tenants").splitlines()[-1])
        return keys

    def service(self, *words: str) -> psutil.Process | None:
        """The child of `up` whose command line holds all the words."""
        for child in psutil.Process(self.process.pid).children():
            if all(any(word in part for part in _command(child)) for word in words):
                return child
        return None

    def node_processes(self, module: str, name: str = "") -> list[psutil.Process]:
        """Engines or trainers that this platform's agents started; `name` keeps those in whose
        command it stands."""
        found = []
        for process in psutil.process_iter():
            command = _command(process)
            is_ours = module in command and any(str(self.data) in part for part in command)
            if is_ours and any(name in part for part in command):
                found.append(process)
        return found

    def kill(self, process: psutil.Process | None) -> None:
        assert process is not None, "the process to kill is not there"
        process.send_signal(signal.SIGKILL)

    def logs(self) -> str:
        """The end of every log, for a failing test's report."""
        parts = []
        for path in sorted(self.data.rglob("*.log")) + sorted(self.data.rglob("log")):
            if path.is_file():
                lines = path.read_text(errors="replace").splitlines()[-25:]
                parts.append(f"--- {path.relative_to(self.data)}\n" + "\n".join(lines))
        return "\n".join(parts)


@contextmanager
def running_platform(*options: str) -> Iterator[RunningPlatform]:
    """Start the platform, wait until it is ready, stop it and everything that it started.

    Its folder is not in pytest's own: every start of pytest closes that to other users, and a
    PostgreSQL started by root runs as another user.
    """
    data = Path(tempfile.mkdtemp(prefix="platform-")) / "data"
    base_url = f"http://127.0.0.1:{free_port()}"
    drop = ("DATABASE_URL", "REDIS_URL", "FACTORY_STORAGE", "DJANGO_SETTINGS_MODULE")
    environment = {k: v for k, v in os.environ.items() if k not in drop}
    environment |= {
        "FACTORY_DATA": str(data),
        "FACTORY_BASE_URL": base_url,
        "DJANGO_SETTINGS_MODULE": "factory.settings.dev",
    }
    environment.pop("FACTORY_SECRET_KEY", None)
    data.mkdir(parents=True, exist_ok=True)
    with (data / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "up", *options],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    platform = RunningPlatform(data, base_url, process, environment)
    try:
        _wait_until_ready(platform)
        yield platform
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for module in ("engines.transformers_server", "engines.fake", "trainer"):
            for left in platform.node_processes(module):
                left.kill()
        shutil.rmtree(data.parent, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(platform: RunningPlatform) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if platform.process.poll() is not None:
            raise AssertionError(f"`up` ended: {platform.logs()}")
        try:
            if httpx.get(f"{platform.base_url}/readyz", timeout=2).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"not ready after {READY_SECONDS} s: {platform.logs()}")


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
