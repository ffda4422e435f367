"""Rollouts over REST."""

from pathlib import Path

import pytest
from rest_framework.test import APIClient

from accounts.choices import Scope
from accounts.models import AuditEvent
from accounts.tests.make import make_key, make_organization
from deployments.choices import ReplicaStatus
from deployments.tests.make import make_deployment, make_replica
from deployments.tests.rolling import Rolling

pytestmark = pytest.mark.django_db


def client_with(secret: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def client() -> APIClient:
    return client_with(make_key(make_organization()))


def test_a_change_is_asked_for_watched_steered_and_told(client: APIClient, tmp_path: Path) -> None:
    rolling = Rolling(make_deployment(tmp_path, replicas=1))
    path = f"/api/v1/deployments/{rolling.deployment.pk}/"
    asked = client.patch(path, {"settings": {"max_waiting": 3}}, format="json")
    assert asked.status_code == 202
    assert asked.json()["settings"] == {}  # what is served
    rollout = f"/api/v1/rollouts/{asked.json()['rollout']}/"
    seen = client.get(rollout).json()
    assert (seen["status"], seen["to_variant"]["settings"]) == ("pending", {"max_waiting": 3})
    assert seen["plan"]["steps"][0] == {"weight": 10, "bake_seconds": 60.0}
    event = AuditEvent.objects.get(action="deployment.update")
    assert (event.before, event.after) == ({"settings": {}}, {"settings": {"max_waiting": 3}})

    rolling.settle()
    assert client.post(f"{rollout}pause/").status_code == 202
    rolling.look()
    assert client.get(rollout).json()["status"] == "paused"
    assert client.post(f"{rollout}resume/").json()["pause_requested_at"] is None
    assert client.post(f"{rollout}promote/").status_code == 202
    rolling.settle()
    assert client.get(path).json()["settings"] == {"max_waiting": 3}
    assert client.get(path).json()["rollout"] is None
    kinds = [row["kind"] for row in client.get(f"{rollout}events/").json()["results"]]
    assert kinds == ["completed", "resumed", "paused", "step", "began"]
    refused = client.post(f"{rollout}abort/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "rollout_is_over")


def test_a_rollout_with_a_plan_of_its_own_and_a_verdict(client: APIClient, tmp_path: Path) -> None:
    rolling = Rolling(make_deployment(tmp_path, replicas=1))
    path = f"/api/v1/deployments/{rolling.deployment.pk}/"
    standing = {"steps": [{"weight": 100, "bake_seconds": 5}], "strategy": "replace"}
    assert client.patch(path, {"rollout_plan": standing}, format="json").json()["rollout"] is None
    wanted = {"slots_per_replica": 2, "plan": {"is_gated": True, "max_surge": 2}}
    made = client.post(f"{path}rollouts/", wanted, format="json")
    assert made.status_code == 202, made.json()
    plan = made.json()["plan"]
    assert (plan["max_surge"], plan["max_unavailable"], len(plan["steps"])) == (2, 1, 1)
    rollout = f"/api/v1/rollouts/{made.json()['id']}/"
    said = {"verdict": "failed", "evidence": {"evaluation": "nightly"}}
    assert client.put(f"{rollout}verdict/", said, format="json").status_code == 202
    rolling.settle()
    seen = client.get(rollout).json()
    assert (seen["status"], seen["status_reason"]) == ("rolled_back", "gate_failed")
    assert seen["verdict_evidence"] == {"evaluation": "nightly"}
    assert client.get(f"{path}rollouts/").json()["count"] == 1
    assert client.get("/api/v1/deployments/").json()["results"][0]["rollout"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"engine": "none"}, "engine"),
        ({"settings": {"dtype": "int3"}}, "settings.dtype"),
        ({"pool_name": "far"}, "pool_name"),
        ({"slots_per_replica": 0}, "slots_per_replica"),
        ({"revision": "00000000-0000-0000-0000-000000000000"}, "revision_id"),
        ({"plan": {"strategy": "hope"}}, "plan.strategy"),
        ({"plan": {"steps": [{"weight": 50, "bake_seconds": 1}]}}, "plan.steps"),
        ({"plan": {"steps": [{"weight": 100}]}}, "plan.steps"),
        ({"plan": {"steps": [{"weight": 100, "bake_seconds": "x"}]}}, "plan.steps"),
        ({"plan": {"steps": 3}}, "plan.steps"),
        ({"plan": {"max_error_share": 2}}, "plan.max_error_share"),
        ({"plan": {"max_failures": 1.5}}, "plan.max_failures"),
        ({"plan": {"max_surge": 0, "max_unavailable": 0}}, "plan.max_surge"),
        ({"plan": {"is_gated": "yes"}}, "plan.is_gated"),
        ({"rollout_plan": {"colour": 1}}, "plan.colour"),
    ],
)
def test_a_refused_change_names_its_field(
    client: APIClient, tmp_path: Path, body: dict, field: str
) -> None:
    deployment = make_deployment(tmp_path)
    refused = client.patch(f"/api/v1/deployments/{deployment.pk}/", body, format="json")
    assert refused.status_code in {400, 404}
    error = refused.json()["error"]
    assert error["field"] == field


def test_a_change_of_nothing_is_no_rollout(client: APIClient, tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    refused = client.post(f"/api/v1/deployments/{deployment.pk}/rollouts/", {}, format="json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "nothing_to_roll")


def test_who_only_reads_steers_nothing(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    make_replica(deployment, status=ReplicaStatus.READY)
    rollout = Rolling(deployment, fill=False).change(settings={"max_waiting": 3})
    reader = client_with(make_key(deployment.organization, scopes=(Scope.READ,)))
    assert reader.get(f"/api/v1/rollouts/{rollout.pk}/").status_code == 200
    for part in ("pause/", "resume/", "promote/", "abort/"):
        assert reader.post(f"/api/v1/rollouts/{rollout.pk}/{part}").status_code == 403
