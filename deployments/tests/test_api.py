from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from rest_framework.test import APIClient

from accounts.choices import Scope
from accounts.tests.make import make_key, make_organization, make_user
from deployments.choices import ReplicaStatus
from deployments.models import Deployment
from deployments.tests.make import make_deployment, make_replica
from models_registry.tests.make import make_revision

pytestmark = pytest.mark.django_db


def client_with(secret: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def client() -> APIClient:
    return client_with(make_key(make_organization()))


def test_a_deployment_from_creation_to_deletion(client: APIClient, tmp_path: Path) -> None:
    revision = make_revision(tmp_path)
    wanted = {"name": "support", "revision": str(revision.pk), "replicas": 2}
    made = client.post("/api/v1/deployments/", wanted, format="json")
    assert made.status_code == 202
    path = f"/api/v1/deployments/{made.json()['id']}/"
    body = client.get(path).json()
    assert (body["name"], body["desired_replicas"]) == ("support", 2)
    assert (body["revision_name"], body["ready_replicas"]) == ("retail/tiny:1", 0)
    (route,) = client.get("/api/v1/routes/").json()["results"]
    assert (route["name"], route["targets"][0]["deployment_name"]) == ("support", "support")
    scaled = client.put(f"{path}scale/", {"replicas": 3}, format="json")
    assert (scaled.status_code, scaled.json()["desired_replicas"]) == (202, 3)
    assert client.delete(path).status_code == 202
    assert client.get("/api/v1/routes/").json()["count"] == 0
    assert client.get(path).json()["delete_requested_at"] is not None
    refused = client.put(f"{path}scale/", {"replicas": 1}, format="json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "deployment_is_deleting")


def test_replicas_tell_where_they_run_and_nothing_secret(client: APIClient, tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    make_replica(deployment, status=ReplicaStatus.READY)
    make_replica(deployment, status=ReplicaStatus.PENDING)
    path = f"/api/v1/deployments/{deployment.pk}"
    rows = client.get(f"{path}/replicas/").json()["results"]
    assert {(row["status"], row["node_name"]) for row in rows} == {
        ("ready", "node-1"),
        ("pending", ""),
    }
    assert [row["accelerators"] for row in rows if row["status"] == "ready"] == [["cpu:0"]]
    assert not {"token", "port", "address", "pid", "lease_token"} & set(rows[0])
    assert client.get(f"{path}/").json()["ready_replicas"] == 1
    assert client.get(f"{path}/events/").status_code == 200


def test_lists_take_as_many_queries_for_one_as_for_many(
    client: APIClient, tmp_path: Path, django_assert_max_num_queries
) -> None:
    revision = make_revision(tmp_path)
    for index in range(5):
        make_deployment(tmp_path, name=f"d{index}", revision=revision)
    busy = Deployment.objects.first()
    assert busy is not None
    make_replica(busy, status=ReplicaStatus.READY)
    make_replica(busy, status=ReplicaStatus.READY)
    with django_assert_max_num_queries(8):
        assert client.get("/api/v1/deployments/").json()["count"] == 5
    with django_assert_max_num_queries(10):
        client.get(f"/api/v1/deployments/{busy.pk}/replicas/")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "no spaces"}),
        ("engine", {"engine": "steam"}),
        ("replicas", {"replicas": 65}),
        ("settings.dtype", {"settings": {"dtype": "int3"}}),
    ],
)
def test_refusals_name_the_field(
    client: APIClient, tmp_path: Path, field: str, changes: dict
) -> None:
    wanted = {"name": "support", "revision": str(make_revision(tmp_path).pk)} | changes
    refused = client.post("/api/v1/deployments/", wanted, format="json")
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)


def test_a_taken_name_is_a_conflict(client: APIClient, tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    wanted = {"name": "support", "revision": str(deployment.revision_id)}
    refused = client.post("/api/v1/deployments/", wanted, format="json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "name_taken")


def test_another_organization_finds_nothing(client: APIClient, tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    stranger = client_with(make_key(make_organization("bank")))
    path = f"/api/v1/deployments/{deployment.pk}/"
    for part in ("", "replicas/", "events/"):
        assert client.get(path + part).status_code == 200
        assert stranger.get(path + part).status_code == 404
    assert stranger.delete(path).status_code == 404
    assert stranger.put(f"{path}scale/", {"replicas": 0}, format="json").status_code == 404
    wanted = {"name": "mine", "revision": str(deployment.revision_id)}
    assert stranger.post("/api/v1/deployments/", wanted, format="json").status_code == 404
    assert stranger.get("/api/v1/deployments/").json()["count"] == 0
    assert stranger.get("/api/v1/routes/").json()["count"] == 0
    deployment.refresh_from_db()
    assert (deployment.desired_replicas, deployment.delete_requested_at) == (1, None)


def test_a_key_that_only_reads_may_not_change(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    reader = client_with(make_key(deployment.organization, scopes=(Scope.READ,)))
    path = f"/api/v1/deployments/{deployment.pk}/"
    assert reader.get(path).status_code == 200
    assert reader.delete(path).status_code == 403
    assert APIClient().get(path).status_code == 401


def test_the_back_office_shows_every_table_and_acts_through_the_services(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    replica = make_replica(deployment, status=ReplicaStatus.READY)
    replica.events.create(at=replica.created_at, kind="ready")
    get_user_model().objects.create_superuser("root", "root@example.com", "a-long-password")
    office = Client()
    assert office.login(username="root", password="a-long-password")
    for table in ("deployment", "replica", "replicaevent", "rollout", "route"):
        assert office.get(f"/admin/deployments/{table}/").status_code == 200
    assert office.get(f"/admin/deployments/deployment/{deployment.pk}/change/").status_code == 200
    assert office.get(f"/admin/deployments/replica/{replica.pk}/change/").status_code == 200
    action = {"action": "scale_to_none", "_selected_action": [str(deployment.pk)]}
    office.post("/admin/deployments/deployment/", action)
    deployment.refresh_from_db()
    assert deployment.desired_replicas == 0


def test_who_may_only_look_at_deployments_changes_none_by_action(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    viewer = make_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_deployment"))
    office = Client()
    office.force_login(viewer)
    for action in ("start_again", "scale_to_none", "delete_deployments"):
        chosen = {"action": action, "_selected_action": [str(deployment.pk)]}
        office.post("/admin/deployments/deployment/", chosen)
    deployment.refresh_from_db()
    assert (deployment.delete_requested_at, deployment.desired_replicas) == (None, 1)
