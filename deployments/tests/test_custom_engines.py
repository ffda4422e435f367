"""Engines that operators described: who may, what is refused, what becomes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEvent, User
from accounts.tests.make import NOW
from chips.models import Node
from common.errors import InvalidInput
from deployments import custom_engines, planning
from deployments.choices import ReplicaStatus
from deployments.models import CustomEngine
from deployments.reconcile import place_replica
from deployments.tests.make import make_deployment, make_node, make_replica
from deployments.tests.test_planning import make_device

pytestmark = pytest.mark.django_db

COMMAND = ["/opt/mindie/bin/serve", "{model_path}", "--port={port}"]


def make_engine(name: str = "mindie", **changes: Any) -> CustomEngine:
    values: dict[str, Any] = {"command": COMMAND, "created_at": NOW} | changes
    return CustomEngine.objects.create(name=name, **values)


def client_of(*, is_superuser: bool) -> Client:
    user = User.objects.create_user("ada", "ada@example.com", "a-long-password", is_staff=True)
    user.is_superuser = is_superuser
    user.save()
    client = Client()
    client.force_login(user)
    return client


def form(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "mindie",
        "command": json.dumps(COMMAND),
        "environment": "{}",
        "health_path": "/health",
        "open_gauges": "[]",
        "start_seconds": "600",
        "torch_devices": "[]",
        "note": "",
    }
    return values | changes


def test_an_operator_describes_an_engine_and_it_is_audited() -> None:
    staff = client_of(is_superuser=True)
    assert staff.post(reverse("admin:deployments_customengine_add"), form()).status_code == 302
    assert custom_engines.list_templates()["mindie"].command == tuple(COMMAND)
    assert AuditEvent.objects.filter(action="customengine.add").count() == 1


def test_nobody_else_does() -> None:
    other = client_of(is_superuser=False)
    page = reverse("admin:deployments_customengine_add")
    assert other.post(page, form()).status_code == 403
    assert not CustomEngine.objects.exists()


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "vllm"}),
        ("name", {"name": "No Name"}),
        ("command", {"command": "sh -c 'rm -rf /'"}),
        ("command", {"command": ["serve", "{model_path}", "{port}", "{secret}"]}),
        ("command", {"command": {"serve": "{port}"}}),
        ("environment", {"environment": ["A"]}),
        ("environment", {"environment": {"A B": "c"}}),
        ("torch_devices", {"torch_devices": "npu"}),
        ("open_gauges", {"open_gauges": ["not a gauge"]}),
    ],
)
def test_what_could_not_be_started_is_refused_by_field(field: str, changes: dict[str, Any]) -> None:
    row = CustomEngine(**{"name": "mindie", "command": COMMAND, "created_at": NOW} | changes)
    with pytest.raises(ValidationError) as refused:
        row.full_clean()
    assert field in refused.value.message_dict


def test_one_that_was_used_is_changed_no_more(tmp_path: Path) -> None:
    engine = make_engine()
    engine.full_clean()
    make_deployment(tmp_path, engine="mindie")
    with pytest.raises(ValidationError):
        engine.full_clean()
    staff = client_of(is_superuser=True)
    page = reverse("admin:deployments_customengine_change", args=[engine.pk])
    assert staff.post(page, form(command=json.dumps([*COMMAND, "-x"]))).status_code == 403
    assert CustomEngine.objects.get().command == COMMAND


def test_a_replica_of_it_carries_its_description(tmp_path: Path) -> None:
    engine = make_engine(torch_devices=["npu"], start_seconds=77)
    deployment = make_deployment(tmp_path, engine="mindie")
    replica = make_replica(deployment, status=ReplicaStatus.READY)
    spec = planning.serve_spec(replica, [make_device(0, torch_device="npu")], tmp_path)
    assert spec.template == engine.template.to_values()
    assert planning.accelerator_request(deployment).torch_devices == frozenset({"npu"})
    size = deployment.revision.size_bytes
    assert planning.startup_limit_seconds(deployment) == pytest.approx(77 + size / 50e6)


def test_it_is_placed_where_the_node_has_it(tmp_path: Path) -> None:
    make_engine()
    make_node("without", accelerators=1)
    Node.objects.update(facts={"engines": {"transformers": ""}})
    replica = make_replica(make_deployment(tmp_path, engine="mindie"), status=ReplicaStatus.PENDING)
    assert not place_replica(replica.pk, now=NOW)
    replica.refresh_from_db()
    assert "does not" in replica.message
    node = make_node("with", accelerators=1)
    Node.objects.filter(pk=node.pk).update(facts={"engines": {"mindie": ""}})
    assert place_replica(replica.pk, now=NOW)
    replica.refresh_from_db()
    assert replica.node == node


def test_an_engine_that_nobody_described_is_refused_with_those_that_are(tmp_path: Path) -> None:
    make_engine()
    with pytest.raises(InvalidInput) as refused:
        make_deployment(tmp_path, engine="steam")
    assert refused.value.field == "engine"
    assert "mindie, sglang" in refused.value.remedy


def test_arguments_that_an_engine_does_not_take_are_refused(tmp_path: Path) -> None:
    arguments = {"trust-remote-code": True}
    with pytest.raises(InvalidInput) as refused:
        make_deployment(tmp_path, engine="vllm", settings={"engine_arguments": arguments})
    assert refused.value.field == "settings.engine_arguments.trust-remote-code"


def test_a_row_that_cannot_be_started_costs_no_node_its_heartbeat() -> None:
    make_engine()
    make_engine("broken", command=["/opt/broken/serve"])  # says neither port nor weights
    assert set(custom_engines.list_templates()) == {"mindie"}


def test_an_engine_that_cannot_be_started_refuses_a_deployment_with_the_reason(
    tmp_path: Path,
) -> None:
    make_engine("broken", command=["/opt/broken/serve"])
    with pytest.raises(InvalidInput, match="port"):
        make_deployment(tmp_path, engine="broken")
