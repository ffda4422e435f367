"""The directory's source against real rows."""

from pathlib import Path

import pytest

from accounts.tests.make import make_key, make_organization
from deployments import planning
from deployments.choices import ReplicaStatus
from deployments.models import Route, RouteTarget
from deployments.tests.make import make_deployment, make_replica
from gateway.source import DatabaseSource

pytestmark = pytest.mark.django_db


def test_routes_lead_to_replicas_that_are_ready(tmp_path: Path) -> None:
    retail = make_organization()
    deployment = make_deployment(tmp_path, retail)
    ready = make_replica(deployment, status=ReplicaStatus.READY)
    make_replica(deployment, status=ReplicaStatus.STARTING)
    (route,) = DatabaseSource().load_routes()
    assert (route.organization_id, route.name) == (str(retail.pk), "support")
    (target,) = route.targets
    assert target.served_model_name == deployment.name
    assert target.revision_id == str(deployment.revision_id)
    (replica,) = target.replicas
    assert (replica.id, replica.port) == (str(ready.pk), ready.port)
    assert replica.token == planning.replica_token(ready.pk)
    assert replica.token not in repr(route)


def test_a_route_without_a_ready_replica_is_still_a_route(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    other = Route.objects.create(
        organization=deployment.organization, name="alias", created_at=deployment.created_at
    )
    RouteTarget.objects.create(route=other, deployment=deployment)
    routes = DatabaseSource().load_routes()
    assert sorted(route.name for route in routes) == ["alias", "support"]
    assert all(not target.replicas for route in routes for target in route.targets)


def test_keys_come_by_prefix_with_what_the_gateway_asks_of_them() -> None:
    retail = make_organization()
    secret = make_key(retail, allowed_models=["tiny"])
    source = DatabaseSource()
    (key,) = source.load_recent_keys(10)
    assert source.load_keys([key.prefix, "sk-af-none"]) == [key]
    assert secret.startswith(key.prefix)
    assert key.allowed_models == {"tiny"}
    source.touch_keys([key.id])
    assert source.load_recent_keys(1) == [key]
