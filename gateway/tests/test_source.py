"""The directory's source against real rows."""

from datetime import timedelta
from pathlib import Path

import pytest

from accounts import keys, services
from accounts.models import ApiKey
from accounts.tests.make import NOW, make_key, make_organization
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


def test_gateways_know_both_secrets_of_one_key() -> None:
    first = make_key(make_organization(), allowed_networks=["10.1.2.3", "2001:db8::/32"])
    row = ApiKey.objects.get()
    issued = keys.rotate_api_key(
        organization=row.organization, key_id=row.pk, overlap=timedelta(hours=1), now=NOW
    )
    prefixes = [services.prefix_of(first), services.prefix_of(issued.secret)]
    source = DatabaseSource()
    found = {key.prefix: key for key in source.load_keys(prefixes)}
    assert set(found) == set(prefixes)
    assert {key.id for key in found.values()} == {str(issued.row.pk)}
    assert found[prefixes[0]].secret_hash == services.hash_secret(first)
    assert found[prefixes[0]].expires_at == (NOW + timedelta(hours=1)).timestamp()
    assert found[prefixes[1]].expires_at is None
    assert found[prefixes[1]].allowed_networks == {"10.1.2.3/32", "2001:db8::/32"}
    assert [key.prefix for key in source.load_keys(prefixes[:1])] == prefixes[:1]
    assert {key.prefix for key in source.load_recent_keys(10)} >= set(prefixes)
