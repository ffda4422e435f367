"""Load tests through a real gateway against a real engine process."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import ApiKey
from accounts.tests.make import make_key, make_organization
from deployments import load_testing, services
from deployments.choices import ReplicaStatus
from deployments.models import LoadTest
from deployments.tests.make import make_deployment, make_replica
from engines.tests.make import RunningEngine, make_spec
from gateway.directory import Replica as GatewayReplica
from gateway.tests.make import RunningGateway, make_target

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def gateway():
    running = RunningGateway().start()
    yield running
    running.stop()


@pytest.fixture
def engine(tmp_path):
    spec = make_spec(
        served_model_name="support",
        environment={"FAKE_TOKENS": "500", "FAKE_DELAY_SECONDS": "0.01"},
        max_concurrency=2,
    )
    running = RunningEngine(spec, tmp_path).wait_ready()
    yield running
    running.stop()


def wait_for_route(gateway: RunningGateway, key: str) -> None:
    deadline = time.monotonic() + 10
    while not list(gateway.client(key).models.list()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def drive(test: LoadTest) -> LoadTest:
    for _ in range(20):
        load_testing.step_load_test(test.pk, now=timezone.now())
        test.refresh_from_db()
        if test.ended_at:
            break
    return test


def test_a_ramp_is_measured_level_by_level_and_the_largest_within_limits_is_told(
    tmp_path: Path, gateway: RunningGateway, engine: RunningEngine, settings
) -> None:
    organization = make_organization()
    deployment = make_deployment(tmp_path, organization)
    make_replica(deployment, status=ReplicaStatus.READY)
    replica = GatewayReplica(
        id="r1", host=engine.spec.host, port=engine.spec.port, token=engine.spec.token
    )
    gateway.route(organization, make_target(replica, name="support"), name="support")
    settings.FACTORY_GATEWAY_URL = gateway.url
    key = make_key(organization)
    wait_for_route(gateway, key)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    path = f"/api/v1/deployments/{deployment.pk}/load-tests/"
    wanted = {
        "clients": [6, 1],
        "seconds_per_level": 3,
        "output_tokens": 20,
        "limit_ttft_milliseconds": 150,
    }
    made = client.post(path, wanted, format="json")
    assert made.status_code == 202, made.json()
    assert client.post(path, wanted, format="json").json()["error"]["code"] == "load_test_runs"
    test = drive(LoadTest.objects.get(pk=made.json()["id"]))
    body = client.get(f"/api/v1/load-tests/{test.pk}/").json()
    assert (body["status"], body["status_reason"]) == ("succeeded", "measured"), body["message"]
    one, six = body["results"]
    assert (one["clients"], six["clients"]) == (1, 6)
    assert one["output_tokens"] == 20 * one["requests"] > 0
    # two answers at once, so six clients wait in turn: past the limit
    assert one["within_limits"]
    assert not six["within_limits"]
    assert six["tokens_per_second"] > 1.3 * one["tokens_per_second"]
    assert body["largest_clients"] == 1
    assert (body["replicas"], body["revision_name"], body["engine"]) == (1, "retail/tiny:1", "fake")
    keys = ApiKey.objects.filter(is_internal=True)
    assert keys.count() == 2
    assert not keys.filter(revoked_at__isnull=True).exists()


def test_without_a_ready_replica_it_fails_with_the_remedy(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    test = services.start_load_test(
        organization=deployment.organization, deployment_id=deployment.pk, now=timezone.now()
    )
    drive(test)
    assert (test.status, test.status_reason) == ("failed", "no_replica")
    assert "Scale it to 1 or more" in test.message


def test_a_target_that_answers_nothing_ends_the_ramp_at_once(tmp_path: Path, settings) -> None:
    settings.FACTORY_GATEWAY_URL = "http://127.0.0.1:9"
    deployment = make_deployment(tmp_path)
    make_replica(deployment, status=ReplicaStatus.READY)
    test = services.start_load_test(
        organization=deployment.organization,
        deployment_id=deployment.pk,
        clients=[1, 2, 4],
        seconds_per_level=3,
        now=timezone.now(),
    )
    drive(test)
    assert (test.status, test.status_reason, test.largest_clients) == ("failed", "beyond", None)
    assert len(test.results) == 1


def test_cancelled_between_two_levels_it_keeps_what_was_measured(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    now = timezone.now()
    test = services.start_load_test(
        organization=deployment.organization, deployment_id=deployment.pk, now=now
    )
    LoadTest.objects.filter(pk=test.pk).update(status="running", results=[{"clients": 1}])
    for _ in range(2):
        services.cancel_load_test(
            organization=deployment.organization, load_test_id=test.pk, now=now
        )
    load_testing.step_load_test(test.pk, now=now + timedelta(seconds=1))
    test.refresh_from_db()
    assert (test.status, len(test.results)) == ("cancelled", 1)
    again = services.start_load_test(
        organization=deployment.organization, deployment_id=deployment.pk, now=now
    )
    assert again.pk != test.pk


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clients", []),
        ("clients", [0]),
        ("clients", [513]),
        ("clients", list(range(1, 12))),
        ("seconds_per_level", 2),
        ("output_tokens", 0),
        ("limit_ttft_milliseconds", 0),
    ],
)
def test_bad_wishes_name_their_field(tmp_path: Path, field: str, value) -> None:
    deployment = make_deployment(tmp_path)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {make_key(deployment.organization)}")
    answer = client.post(
        f"/api/v1/deployments/{deployment.pk}/load-tests/", {field: value}, format="json"
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["field"].startswith(field)
    assert not LoadTest.objects.exists()
