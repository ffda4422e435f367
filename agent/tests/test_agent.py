"""A real agent process with real engine processes, on the tests' own database."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

from agent.node import AnotherAgent, only_agent
from agent.supervisor import ProcessSupervisor
from chips.models import AllocatedSlot, Node
from deployments import planning, services, tasks
from deployments.choices import DeploymentStatus, ReplicaStatus
from deployments.models import Deployment, Replica
from deployments.tests.make import make_deployment

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]
S = ReplicaStatus
NAME = "test-node"


class RunningAgent:
    """`manage.py agent` as a child process; `platform` stands for beat and control."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        command = [sys.executable, "manage.py", "agent", "--pool", "local", "--create-pool"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--name", NAME, "--cpu-accelerators", "2", *options],
                cwd=settings.BASE_DIR,
                env=os.environ | self._environment(),
                stdout=log,
                stderr=log,
            )

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Let the sweeps come round until it holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.report()
            tasks.sweep()
            time.sleep(0.1)

    def report(self) -> str:
        """How the rows are, and what the agent and the engines said."""
        rows = Replica.objects.order_by("created_at")
        told = [
            f"{row} {row.status} {row.status_reason} wanted={row.wanted} pid={row.pid} "
            f"{row.message}\n{row.log_tail[-1000:]}"
            for row in rows
        ]
        return "\n".join([*told, self.log.read_text()[-3000:]])

    def _environment(self) -> dict[str, str]:
        there = {
            key: quote(str(value), safe="/") for key, value in connection.settings_dict.items()
        }
        login = f"{there['USER']}:{there['PASSWORD']}@:{there['PORT']}"
        url = f"postgresql://{login}/{there['NAME']}?host={there['HOST']}"
        return {
            "DJANGO_SETTINGS_MODULE": "factory.settings.dev",
            "DATABASE_URL": url,
            "REDIS_URL": settings.REDIS_URL,
            "FACTORY_SECRET_KEY": settings.SECRET_KEY,
            "FACTORY_DATA": str(self.folder / "data"),
            "FACTORY_STORAGE": str(settings.FACTORY_STORAGE),
        }


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    call_command("load_accelerator_types", verbosity=0)
    running = RunningAgent(tmp_path)
    yield running
    running.end(signal.SIGKILL)
    left = ProcessSupervisor(tmp_path / "data" / "node" / NAME / "engines")
    for name in left.names():
        left.forget(name)


def ready(deployment: Deployment) -> list[Replica]:
    return list(Replica.objects.filter(deployment=deployment, status=S.READY))


def answers(replica: Replica) -> bool:
    """As the gateway asks it."""
    response = httpx.post(
        f"http://{replica.address}:{replica.port}/v1/completions",
        json={"model": replica.deployment.name, "prompt": "Hello", "max_tokens": 2},
        headers={"Authorization": f"Bearer {planning.replica_token(replica.pk)}"},
        timeout=10,
    )
    return response.status_code == 200


def held() -> int:
    return AllocatedSlot.objects.filter(released_at__isnull=True).count()


def test_a_deployment_is_served_survives_kills_and_is_drained(
    agent: RunningAgent, tmp_path: Path
) -> None:
    agent.start()
    deployment = make_deployment(tmp_path)
    agent.until(lambda: len(ready(deployment)) == 1)
    (first,) = ready(deployment)
    assert answers(first)
    assert first.pid is not None
    assert Node.objects.get().accelerators.count() == 2

    # The engine is killed: another comes by itself, and the dead one's accelerator is free again.
    os.kill(first.pid, signal.SIGKILL)
    began = time.monotonic()
    agent.until(lambda: [each for each in ready(deployment) if each.pk != first.pk] != [])
    assert time.monotonic() - began < 20
    (second,) = ready(deployment)
    assert answers(second)
    first.refresh_from_db()
    assert (first.status, first.status_reason) == (S.FAILED, "engine_exited")
    one_replica = held()

    # The agent is killed and comes back: the engine never notices.
    agent.end(signal.SIGKILL)
    assert answers(second)
    agent.start()
    booted = Node.objects.get().agent_started_at
    agent.until(lambda: Node.objects.get().agent_started_at != booted)
    time.sleep(3)
    agent.until(lambda: bool(ready(deployment)))
    (third,) = ready(deployment)
    assert (third.pk, third.pid) == (second.pk, second.pid)
    assert answers(second)

    # Deleted: drained, gone, nothing held.
    services.delete_deployment(
        organization=deployment.organization,
        deployment_id=deployment.pk,
        now=deployment.created_at,
    )

    def is_deleted() -> bool:
        deployment.refresh_from_db()
        return deployment.status == DeploymentStatus.DELETED

    agent.until(is_deleted)
    assert (one_replica > 0, held()) == (True, 0)
    assert second.pid is not None
    agent.until(lambda: not psutil.pid_exists(second.pid or 0))


def test_an_engine_without_a_row_is_ended(agent: RunningAgent, tmp_path: Path) -> None:
    root = tmp_path / "data" / "node" / NAME / "engines"
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    stray = ProcessSupervisor(root)
    pid = stray.start("nobody", sleep, env={})
    agent.start()
    agent.until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_with_the_flag_engines_end_together_with_the_agent(
    agent: RunningAgent, tmp_path: Path
) -> None:
    agent.start("--stop-processes-on-exit")
    deployment = make_deployment(tmp_path)
    agent.until(lambda: len(ready(deployment)) == 1)
    (replica,) = ready(deployment)
    agent.end()
    assert not psutil.pid_exists(replica.pid or 0)
    replica.refresh_from_db()
    assert (replica.status, replica.status_reason) == (S.FAILED, "agent_stopped")
    assert held() == 0
    deployment.refresh_from_db()
    assert deployment.failures == 0


def test_an_engine_that_never_starts_makes_the_deployment_fail_with_its_words(
    agent: RunningAgent, tmp_path: Path
) -> None:
    agent.start()
    deployment = make_deployment(
        tmp_path, settings={"environment": {"FAKE_FAIL": "this model is square"}}
    )

    def has_failed() -> bool:
        Deployment.objects.update(next_start_at=None)  # no pause: the test has no time for it
        deployment.refresh_from_db()
        return deployment.status == DeploymentStatus.FAILED

    agent.until(has_failed)
    assert "this model is square" in deployment.message
    assert held() == 0


def test_a_second_agent_of_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "FACTORY_DATA", tmp_path)
    monkeypatch.setattr("agent.node.LOCK_SECONDS", 0.2)
    with only_agent(NAME):
        with pytest.raises(AnotherAgent), only_agent(NAME):
            pass
        with pytest.raises(CommandError, match="--name"):
            call_command("agent", "--pool", "local", "--name", NAME)


def test_a_pool_that_does_not_exist_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "FACTORY_DATA", tmp_path)
    with pytest.raises(CommandError, match="--create-pool"):
        call_command("agent", "--pool", "nowhere", "--name", NAME)
