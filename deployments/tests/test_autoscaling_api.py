from pathlib import Path

import pytest
from rest_framework.test import APIClient

from accounts.models import AuditEvent
from accounts.tests.make import make_key, make_organization
from deployments import signals
from deployments.choices import ReplicaStatus
from deployments.models import Deployment
from deployments.tests.make import make_deployment, make_replica
from deployments.tests.test_autoscaling import tell

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> APIClient:
    client = APIClient()
    secret = make_key(make_organization())
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def path(tmp_path: Path, client: APIClient) -> str:
    return f"/api/v1/deployments/{make_deployment(tmp_path).pk}"


def test_autoscaling_is_put_read_and_removed(client: APIClient, path: str) -> None:
    assert client.get(f"{path}/autoscaling/").status_code == 404
    hours = {"days": ["mon", "fri"], "from": "08:00", "to": "18:00", "max_replicas": 20}
    wanted = {"min_replicas": 0, "max_replicas": 8, "schedule": [hours]}
    put = client.put(f"{path}/autoscaling/", wanted, format="json")
    assert put.status_code == 202
    body = client.get(f"{path}/autoscaling/").json()
    assert (body["enabled"], body["min_replicas"], body["max_replicas"]) == (True, 0, 8)
    assert (body["target_concurrency"], body["idle_seconds"]) == (8.0, 900)
    assert body["schedule"] == [hours | {"min_replicas": None}]
    assert (body["load"], body["wanted_replicas"]) == (None, 1)
    assert client.delete(f"{path}/autoscaling/").status_code == 204
    assert client.get(f"{path}/autoscaling/").status_code == 404
    actions = list(AuditEvent.objects.order_by("sequence").values_list("action", flat=True))
    assert actions[-2:] == ["deployment.autoscaling_set", "deployment.autoscaling_removed"]


def test_it_tells_the_load_and_what_follows_from_it(client: APIClient, path: str) -> None:
    client.put(f"{path}/autoscaling/", {}, format="json")
    deployment = Deployment.objects.get()
    replica = make_replica(deployment, status=ReplicaStatus.READY)
    tell(in_flight={str(replica.pk): 5}, held={str(deployment.pk): 1})
    body = client.get(f"{path}/autoscaling/").json()
    assert body["load"] == {"in_flight": 5, "held": 1, "first_token_milliseconds": None}
    assert body["reason"] == "5 requests in flight and 1 held, target 8 a replica"
    assert (body["min_replicas_now"], body["max_replicas_now"]) == (1, 4)


def test_who_changed_the_number_is_told(client: APIClient, path: str) -> None:
    client.put(f"{path}/autoscaling/", {}, format="json")
    client.put(f"{path}/scale/", {"replicas": 3}, format="json")
    (event,) = client.get(f"{path}/scaling-events/").json()["results"]
    assert (event["from_replicas"], event["to_replicas"], event["reason"]) == (1, 3, "asked")
    assert "autoscaling is off" in event["message"]
    assert client.get(f"{path}/autoscaling/").json()["enabled"] is False


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("max_replicas", {"min_replicas": 5}),
        ("min_replicas", {"min_replicas": "many"}),
        ("time_zone", {"time_zone": "nowhere"}),
        ("schedule.0.from", {"schedule": [{"from": "8 o'clock"}]}),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(
    client: APIClient, path: str, field: str, wanted: dict
) -> None:
    refused = client.put(f"{path}/autoscaling/", wanted, format="json")
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)


def test_signals_of_another_time_are_not_read(client: APIClient, path: str) -> None:
    client.put(f"{path}/autoscaling/", {}, format="json")
    assert signals.read_now() is None
    assert "no gateway tells" in client.get(f"{path}/autoscaling/").json()["reason"]
