"""Rows that follow what gateways tell."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings

from accounts.models import AuditEvent
from accounts.tests.make import NOW, make_organization
from common.errors import DomainError, InvalidInput
from deployments import reconcile, selectors, services, signals
from deployments.choices import DeploymentStatus, ReplicaStatus
from deployments.models import Autoscaling, Deployment, ScalingEvent
from deployments.services import autoscaling
from deployments.services.autoscaling import Wanted
from deployments.tests.make import make_deployment, make_node, make_replica
from planner.scaling import PERIOD_SECONDS, UP_SECONDS

pytestmark = pytest.mark.django_db


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    make_node(accelerators=8)
    return make_deployment(tmp_path)


def scale_by_load(deployment: Deployment, **values: Any) -> Autoscaling:
    return autoscaling.set_autoscaling(
        organization=deployment.organization,
        deployment_id=deployment.pk,
        wanted=Wanted(**values),
        now=NOW,
    )


def tell(
    in_flight: dict[str, int] | None = None,
    held: dict[str, int] | None = None,
    silent: dict[str, float] | None = None,
) -> None:
    """As a gateway does every second."""
    open_now = signals.Now(in_flight=in_flight or {}, held=held or {}, silent=silent or {})
    client = redis.Redis.from_url(django_settings.REDIS_URL)
    at = datetime.now(UTC).timestamp()
    client.zadd(signals.GATEWAYS, {"gateway": at})
    client.set(signals.now_key("gateway"), open_now.encode(), ex=60)
    client.close()


def look(deployment: Deployment, *, seconds: float) -> int:
    """One look so long after NOW; how many replicas are wanted after it."""
    reconcile.autoscale_all(now=NOW + timedelta(seconds=seconds))
    deployment.refresh_from_db()
    return deployment.desired_replicas


def test_a_lasting_load_wants_more_replicas_and_says_why(deployment: Deployment) -> None:
    scale_by_load(deployment)
    replica = make_replica(deployment, status=ReplicaStatus.READY)
    tell(in_flight={str(replica.pk): 37})
    before = deployment.generation
    assert look(deployment, seconds=0) == 1
    assert look(deployment, seconds=UP_SECONDS) == 2
    assert look(deployment, seconds=UP_SECONDS + PERIOD_SECONDS) == 2
    assert look(deployment, seconds=2 * UP_SECONDS + PERIOD_SECONDS) == 4
    events = list(ScalingEvent.objects.order_by("at"))
    assert [(each.from_replicas, each.to_replicas) for each in events] == [(1, 2), (2, 4)]
    assert events[1].message == "2 -> 4: 37 requests in flight, target 8 a replica"
    assert deployment.generation == before + 2
    assert AuditEvent.objects.filter(action="deployment.scale", actor_kind="system").count() == 2


def test_without_signals_nothing_happens(deployment: Deployment) -> None:
    scale_by_load(deployment, min_replicas=0, idle_seconds=10)
    make_replica(deployment, status=ReplicaStatus.READY)
    for second in range(0, 100, 5):
        assert look(deployment, seconds=second) == 1


def test_it_sleeps_after_idleness_and_wakes_for_a_request(deployment: Deployment) -> None:
    scale_by_load(deployment, min_replicas=0, idle_seconds=60)
    make_replica(deployment, status=ReplicaStatus.READY)
    tell()
    assert look(deployment, seconds=0) == 1
    assert look(deployment, seconds=59) == 1
    assert look(deployment, seconds=60) == 0
    assert ScalingEvent.objects.get().reason == "idle"
    assert reconcile.wake(deployment.pk, now=NOW + timedelta(seconds=70))
    deployment.refresh_from_db()
    assert deployment.desired_replicas == 1
    assert not reconcile.wake(deployment.pk, now=NOW + timedelta(seconds=71))
    assert look(deployment, seconds=72) == 1
    assert ScalingEvent.objects.first().message == "0 -> 1: a request waits"


def test_the_sweep_wakes_for_held_requests_if_the_message_was_lost(deployment: Deployment) -> None:
    services.scale_deployment(
        organization=deployment.organization, deployment_id=deployment.pk, replicas=0, now=NOW
    )
    scale_by_load(deployment, min_replicas=0)
    tell()
    assert look(deployment, seconds=1) == 0
    tell(held={str(deployment.pk): 2})
    assert look(deployment, seconds=2) == 1


def test_a_persons_number_ends_autoscaling(deployment: Deployment) -> None:
    scale_by_load(deployment, min_replicas=2)
    who: dict[str, Any] = {
        "organization": deployment.organization,
        "deployment_id": deployment.pk,
        "now": NOW,
    }
    services.scale_deployment(**who, replicas=0)
    assert not Autoscaling.objects.get().enabled
    assert "autoscaling is off" in ScalingEvent.objects.get().message
    assert look(deployment, seconds=1) == 0
    assert not reconcile.wake(deployment.pk, now=NOW)
    scale_by_load(deployment, min_replicas=2)
    assert look(deployment, seconds=2) == 2


def test_starting_a_failed_deployment_again_leaves_autoscaling_on(deployment: Deployment) -> None:
    scale_by_load(deployment, min_replicas=3)
    Deployment.objects.update(failures=5, status=DeploymentStatus.FAILED)
    assert look(deployment, seconds=1) == 1  # more replicas would fail as well
    services.scale_deployment(
        organization=deployment.organization, deployment_id=deployment.pk, replicas=1, now=NOW
    )
    assert Autoscaling.objects.get().enabled
    Deployment.objects.update(status=DeploymentStatus.PENDING)
    assert look(deployment, seconds=2) == 3


def test_hours_are_those_of_the_organization(deployment: Deployment) -> None:
    deployment.organization.time_zone = "Asia/Shanghai"  # 8 hours ahead
    deployment.organization.save()
    hours = {"days": ["mon"], "from": "08:00", "to": "18:00", "min_replicas": 3}
    scale_by_load(deployment, schedule=[hours])
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    reconcile.autoscale_all(now=monday - timedelta(minutes=1))
    deployment.refresh_from_db()
    assert deployment.desired_replicas == 1
    reconcile.autoscale_all(now=monday)
    deployment.refresh_from_db()
    assert deployment.desired_replicas == 3
    assert ScalingEvent.objects.get().message == "1 -> 3: at least 3 are wanted now"


def test_a_decision_on_an_older_wish_is_not_written(deployment: Deployment) -> None:
    row = scale_by_load(deployment, min_replicas=2)
    sights = reconcile.Sights([deployment.pk])
    outlook = reconcile.look(row, sights, now=NOW)
    scale_by_load(deployment, min_replicas=1, max_replicas=1)
    Autoscaling.objects.update(updated_at=NOW + timedelta(seconds=1))
    assert outlook.decision.replicas == 2
    assert not reconcile.follow(row, outlook.decision, now=NOW)
    deployment.refresh_from_db()
    assert deployment.desired_replicas == 1


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("min_replicas", {"min_replicas": 65}),
        ("max_replicas", {"min_replicas": 3, "max_replicas": 2}),
        ("target_concurrency", {"target_concurrency": 0}),
        ("idle_seconds", {"idle_seconds": 1}),
        ("time_zone", {"time_zone": "Mars/Olympus"}),
        ("schedule.0", {"schedule": [{"hour": 3}]}),
        ("schedule.0.days", {"schedule": [{"days": ["someday"]}]}),
        ("schedule.1.from", {"schedule": [{}, {"from": "25:00"}]}),
        ("schedule.0.min_replicas", {"schedule": [{"min_replicas": "two"}]}),
    ],
)
def test_a_bad_wish_is_refused_by_its_field(
    deployment: Deployment, field: str, values: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        scale_by_load(deployment, **values)
    assert refused.value.field == field
    assert not Autoscaling.objects.exists()


def test_another_organization_sees_and_changes_nothing(deployment: Deployment) -> None:
    scale_by_load(deployment)
    who: dict[str, Any] = {
        "organization": make_organization("bank"),
        "deployment_id": deployment.pk,
    }
    with pytest.raises(DomainError) as refused:
        autoscaling.get_autoscaling(**who)
    assert refused.value.status_code == 404
    with pytest.raises(DomainError):
        autoscaling.set_autoscaling(**who, wanted=Wanted(), now=NOW)
    with pytest.raises(DomainError):
        autoscaling.remove_autoscaling(**who, now=NOW)


@pytest.mark.parametrize(
    ("is_on", "desired", "status", "reason", "told"),
    [
        (True, 0, "stopped", "none_wanted", (True, True, False)),
        (True, 1, "pending", "starting", (True, False, True)),
        (True, 1, "failed", "replicas_failed", (False, False, False)),
        (False, 0, "stopped", "none_wanted", (False, False, False)),
        (False, 1, "pending", "starting_again", (False, False, True)),
        (False, 1, "pending", "no_capacity", (False, False, False)),
    ],
)
def test_gateways_are_told_whether_a_replica_may_be_waited_for(
    deployment: Deployment,
    is_on: bool,
    desired: int,
    status: str,
    reason: str,
    told: tuple[bool, bool, bool],
) -> None:
    scale_by_load(deployment, min_replicas=0, enabled=is_on)
    Deployment.objects.update(desired_replicas=desired, status=status, status_reason=reason)
    ((target,),) = (route.targets for route in selectors.get_routing_table())
    assert (target.scales, target.is_asleep, target.is_coming) == told


def test_a_replica_that_is_silent_for_too_long_is_replaced(deployment: Deployment) -> None:
    silent, slow = (make_replica(deployment, status=ReplicaStatus.READY) for _ in range(2))
    ids = {str(silent.pk): 1, str(slow.pk): 1}
    tell(in_flight=ids, silent={str(silent.pk): 301.0, str(slow.pk): 120.0})
    assert reconcile.end_silent(now=NOW) == 1
    assert reconcile.end_silent(now=NOW) == 0
    silent.refresh_from_db()
    slow.refresh_from_db()
    assert (silent.status, silent.status_reason) == ("draining", "engine_silent")
    assert silent.drain_deadline_at is not None
    assert silent.drain_deadline_at > NOW
    assert slow.status == "ready"
    reconcile.reconcile_deployment(deployment.pk, now=NOW)
    deployment.refresh_from_db()
    assert deployment.failures == 1
