"""Adapters on a real engine, attached by a real agent: from rows to words."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import call_command

from accounts.tests.make import NOW, make_organization
from agent.supervisor import ProcessSupervisor
from agent.tests.test_agent import NAME, RunningAgent
from deployments import planning, selectors, services
from deployments.choices import DeploymentStatus
from deployments.models import Attachment, Deployment, Replica
from deployments.tests.make import make_deployment
from engines.tests.make import make_adapter, make_model
from models_registry.choices import RevisionKind, SourceKind
from models_registry.models import Revision
from models_registry.services import publish_folder

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    call_command("load_accelerator_types", verbosity=0)
    running = RunningAgent(tmp_path)
    yield running
    running.end(signal.SIGKILL)
    left = ProcessSupervisor(tmp_path / "data" / "node" / NAME / "engines")
    for name in left.names():
        left.forget(name)


def publish(folder: Path, name: str, kind: str, parent: Revision | None = None) -> Revision:
    return publish_folder(
        organization=make_organization(),
        name=name,
        folder=folder,
        kind=kind,
        source_kind=SourceKind.FOLDER,
        parent=parent,
        now=NOW,
    )


def answer(name: str) -> tuple[int, str]:
    """Status and text, asked of a replica that the routing table names, as the gateway asks it."""
    (row,) = [each for each in selectors.get_routing_table() if each.name == name]
    target = row.targets[0]
    replica = target.replicas[0]
    body: dict[str, Any] = {
        "model": target.deployment_name,
        "prompt": "where is my",
        "max_tokens": 8,
    }
    response = httpx.post(
        f"http://{replica.address}:{replica.port}/v1/completions",
        json=body | {"temperature": 0},
        headers={"Authorization": f"Bearer {planning.replica_token(replica.id)}"},
        timeout=30,
    )
    return response.status_code, response.json().get("choices", [{}])[0].get("text", "")


def is_ready(*deployments: Deployment) -> bool:
    rows = Deployment.objects.filter(pk__in=[each.pk for each in deployments])
    return all(row.status == DeploymentStatus.READY for row in rows)


def test_adapters_join_a_running_engine_and_come_back_with_its_successor(
    agent: RunningAgent, tmp_path: Path
) -> None:
    source = make_model(tmp_path / "base")
    base = publish(source, "base", RevisionKind.BASE)
    organization = base.registered_model.organization
    agent.start()
    options: dict[str, Any] = {
        "engine": "transformers",
        "settings": {"dtype": "float32", "max_adapters": 2},
    }
    host = make_deployment(tmp_path, organization, name="base", revision=base, **options)
    agent.until(lambda: is_ready(host), seconds=120)
    pid = Replica.objects.get().pid

    adapters = []
    for seed, name in enumerate(("one", "two", "three")):
        folder = make_adapter(tmp_path / name, source, seed=seed)
        adapters.append(publish(folder, name, RevisionKind.ADAPTER, parent=base))
    began = time.monotonic()
    deployed = [
        services.create_deployment(
            organization=organization,
            name=row.registered_model.name,
            revision_id=row.pk,
            now=NOW,
        )
        for row in adapters
    ]
    agent.until(lambda: Attachment.objects.count() == 3)
    took = time.monotonic() - began
    assert took < 10  # 2 s where nothing else runs
    agent.until(lambda: is_ready(*deployed))
    assert Replica.objects.get().pid == pid  # no restart
    said = {name: answer(name) for name in ("base", "one", "two", "three")}
    assert {status for status, _ in said.values()} == {200}
    assert len({text for _, text in said.values()}) == 4

    # The engine is killed: its successor has them all, and they say the same.
    os.kill(pid or 0, signal.SIGKILL)
    agent.until(lambda: Attachment.objects.exclude(replica__pid=pid).count() == 3, seconds=120)
    agent.until(lambda: is_ready(host, *deployed))
    assert {name: answer(name) for name in said} == said

    # One is deleted: the others go on.
    services.delete_deployment(organization=organization, deployment_id=deployed[0].pk, now=NOW)
    rows = Deployment.objects.filter(status=DeploymentStatus.DELETED)
    agent.until(lambda: rows.count() == 1)
    assert answer("two") == said["two"]
    assert Attachment.objects.count() == 2
