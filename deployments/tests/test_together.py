"""What no single part sees: rollouts, autoscaling, adapters and load tests at the same time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from django.conf import settings as django_settings

from accounts.tests.make import NOW
from common.errors import DomainError
from deployments import load_testing, reconcile, selectors, services, signals
from deployments.choices import AttachmentStatus, LoadTestStatus, ReplicaStatus, RolloutStatus
from deployments.models import Attachment, Deployment, LoadTest, Replica
from deployments.services import autoscaling
from deployments.services.autoscaling import Wanted
from deployments.tests.make import make_deployment, make_node, make_replica
from deployments.tests.rolling import Rolling
from models_registry.tests.make import make_adapter_revision, make_revision

pytestmark = pytest.mark.django_db
S = ReplicaStatus
R = RolloutStatus


def scale_by_load(deployment: Deployment, **values: object) -> None:
    autoscaling.set_autoscaling(
        organization=deployment.organization,
        deployment_id=deployment.pk,
        wanted=Wanted(**values),  # type: ignore[arg-type]
        now=NOW,
    )


def tell(held: dict[str, int] | None = None) -> None:
    """As a gateway does that has nothing in flight."""
    client = redis.Redis.from_url(django_settings.REDIS_URL)
    client.zadd(signals.GATEWAYS, {"gateway": datetime.now(UTC).timestamp()})
    client.set(signals.now_key("gateway"), signals.Now(held=held or {}).encode(), ex=60)
    client.close()


def fresh(deployment: Deployment) -> Deployment:
    deployment.refresh_from_db()
    return deployment


def test_an_idle_deployment_stays_awake_until_its_rollout_has_ended(tmp_path: Path) -> None:
    rolling = Rolling(make_deployment(tmp_path))
    scale_by_load(rolling.deployment, min_replicas=0, idle_seconds=10)
    rollout = rolling.change(settings={"max_waiting": 1}, plan={"is_gated": True})
    rolling.go_to(2)
    tell()
    for seconds in (0, 20, 40):
        reconcile.autoscale_all(now=rolling.now + timedelta(seconds=seconds))
    assert fresh(rolling.deployment).desired_replicas == 1
    rolling.look(after=60)
    assert rolling.again(rollout).waits_for == "gate"
    rolling.steer(services.abort_rollout, rollout)
    rolling.settle()
    assert rolling.again(rollout).status == R.ABORTED
    for seconds in (0, 20):
        reconcile.autoscale_all(now=rolling.now + timedelta(minutes=5, seconds=seconds))
    assert fresh(rolling.deployment).desired_replicas == 0


def test_scaled_to_none_a_change_that_awaits_its_verdict_is_not_adopted(tmp_path: Path) -> None:
    rolling = Rolling(make_deployment(tmp_path))
    rolling.change(settings={"max_waiting": 1}, plan={"is_gated": True})
    rolling.go_to(2)
    rolling.scale(0)
    rolling.look()
    rollout = rolling.rollout()
    assert (rollout.status, rollout.status_reason) == (R.ROLLED_BACK, "not_proven")
    assert rolling.served() == {}


def test_hours_without_replicas_let_nobody_wake_it(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    closed = [{"min_replicas": 0, "max_replicas": 0}]
    scale_by_load(deployment, min_replicas=0, schedule=closed)
    tell(held={str(deployment.pk): 1})
    reconcile.autoscale_all(now=NOW)
    assert fresh(deployment).desired_replicas == 0
    assert not reconcile.wake(deployment.pk, now=NOW)
    reconcile.autoscale_all(now=NOW + timedelta(seconds=60))
    assert fresh(deployment).desired_replicas == 0


def test_one_that_fell_asleep_after_failures_wakes_anew(tmp_path: Path) -> None:
    make_node(accelerators=8)
    deployment = make_deployment(tmp_path, replicas=2)
    make_replica(deployment, status=S.READY)
    Deployment.objects.update(failures=5)
    reconcile.reconcile_deployment(deployment.pk, now=NOW)
    assert fresh(deployment).status == "degraded"
    scale_by_load(deployment, min_replicas=0, idle_seconds=10, max_replicas=2)
    tell()
    for seconds in (0, 20):
        reconcile.autoscale_all(now=NOW + timedelta(seconds=seconds))
    assert fresh(deployment).desired_replicas == 0
    Replica.objects.update(status=S.STOPPED, wanted=False)
    reconcile.reconcile_deployment(deployment.pk, now=NOW)
    assert reconcile.wake(deployment.pk, now=NOW + timedelta(seconds=30))
    reconcile.reconcile_deployment(deployment.pk, now=NOW + timedelta(seconds=30))
    assert Replica.objects.filter(status=S.PENDING).count() == 1


def test_an_adapter_that_new_replicas_refuse_never_takes_the_old_ones_place(
    tmp_path: Path,
) -> None:
    deployment = make_deployment(tmp_path, name="base")
    base = deployment.revision
    first, second = (make_adapter_revision(tmp_path, base, name="a", seed=n) for n in (1, 2))
    alone = make_deployment(
        tmp_path, deployment.organization, name="alone", revision=first, own_replicas=True
    )
    rolling = Rolling(alone)
    for replica in rolling.ready():
        attach(replica, alone, AttachmentStatus.ATTACHED)
    rolling.look()
    rolling.change(revision_id=second.pk, plan={"deadline_seconds": 300})
    for _ in range(8):
        rolling.look(after=60)
        rolling.let_go()
        rolling.make_ready()
        for replica in rolling.of("new"):
            attach(replica, alone, AttachmentStatus.FAILED, "it uses DoRA")
        assert set(rolling.weights()) == {1}
    assert rolling.rollout().status_reason == "deadline"
    assert "it uses DoRA" in rolling.rollout().message
    assert fresh(alone).revision == first


def test_a_hosts_new_replica_counts_once_it_has_the_adapters_of_the_old_one(
    tmp_path: Path,
) -> None:
    rolling = Rolling(make_deployment(tmp_path, name="base"))
    host = rolling.deployment
    adapter = make_adapter_revision(tmp_path, host.revision, name="a")
    tuned = make_deployment(tmp_path, host.organization, name="tuned", revision=adapter)
    (old,) = rolling.ready()
    attach(old, tuned, AttachmentStatus.ATTACHED)
    plan = {"steps": [{"weight": 100, "bake_seconds": 0}]}
    rolling.change(settings={"max_waiting": 1}, plan=plan)
    rolling.settle()
    assert rolling.weights() == {1: 100}
    (new,) = rolling.of("new")
    attach(new, tuned, AttachmentStatus.FAILED, "its rank is too high")
    rolling.look()
    assert rolling.weights() == {1: 100}
    assert "its rank is too high" in rolling.rollout().message
    attach(new, tuned, AttachmentStatus.ATTACHED)
    rolling.settle()
    assert rolling.rollout().status == R.COMPLETED


def test_requests_for_an_adapter_are_shared_as_its_hosts_rollout_says(tmp_path: Path) -> None:
    rolling = Rolling(make_deployment(tmp_path, name="base", replicas=2))
    host = rolling.deployment
    adapter = make_adapter_revision(tmp_path, host.revision, name="a")
    tuned = make_deployment(tmp_path, host.organization, name="tuned", revision=adapter)
    for replica in rolling.ready():
        attach(replica, tuned, AttachmentStatus.ATTACHED)
    rolling.change(settings={"max_waiting": 1})
    rolling.settle()
    for replica in rolling.of("new"):
        attach(replica, tuned, AttachmentStatus.ATTACHED)
    assert rolling.weights() == {1: 100}
    rolling.look()
    rows = {row.name: row.targets for row in selectors.get_routing_table()}
    assert [each.weight for each in rows["base"]] == [90, 10]
    assert [each.weight for each in rows["tuned"]] == [90, 10]
    assert {each.revision_id for each in rows["tuned"]} == {adapter.pk}
    assert {each.deployment_id for each in rows["tuned"]} == {tuned.pk}


def test_an_adapter_whose_host_sleeps_says_that_a_request_wakes_it(tmp_path: Path) -> None:
    host = make_deployment(tmp_path, name="base")
    adapter = make_adapter_revision(tmp_path, host.revision, name="a")
    scale_by_load(host, min_replicas=0)
    tuned = make_deployment(tmp_path, host.organization, name="tuned", revision=adapter)
    Deployment.objects.filter(pk=host.pk).update(desired_replicas=0)
    reconcile.reconcile_deployment(tuned.pk, now=NOW)
    assert (fresh(tuned).status_reason, "until a request" in tuned.message) == ("host_asleep", True)
    ((target,),) = (row.targets for row in selectors.get_routing_table() if row.name == "tuned")
    assert target.is_asleep
    assert tuned not in reconcile.list_unsettled()  # nothing is to be done until then
    assert reconcile.wake(tuned.pk, now=NOW)
    assert tuned in reconcile.list_unsettled()
    assert fresh(host).desired_replicas == 1


def attach(
    replica: Replica, deployment: Deployment, status: AttachmentStatus, message: str = ""
) -> None:
    """As the node's agent has left it."""
    times = {"created_at": NOW, "status_changed_at": NOW}
    values = {"revision": deployment.revision, "status": status, "message": message}
    Attachment.objects.update_or_create(
        replica=replica, deployment=deployment, defaults=values | times
    )


def test_no_adapter_is_given_to_a_host_that_is_leaving_its_base(tmp_path: Path) -> None:
    rolling = Rolling(make_deployment(tmp_path, name="base"))
    host = rolling.deployment
    adapter = make_adapter_revision(tmp_path, host.revision, name="a")
    other = make_revision(tmp_path, host.organization, name="other", seed=5)
    rolling.change(revision_id=other.pk)
    with pytest.raises(DomainError, match="changing"):
        make_deployment(
            tmp_path, host.organization, name="tuned", revision=adapter, host_id=host.pk
        )
    assert make_deployment(tmp_path, host.organization, name="tuned", revision=adapter).host is None


def test_an_adapter_on_a_host_is_load_tested_on_the_replicas_that_have_it(
    tmp_path: Path,
) -> None:
    make_node(accelerators=8)
    host = make_deployment(tmp_path, name="base")
    replica = make_replica(host, status=S.READY)
    adapter = make_adapter_revision(tmp_path, host.revision, name="a")
    tuned = make_deployment(tmp_path, host.organization, name="tuned", revision=adapter)
    assert tuned.host == host
    attach(replica, tuned, AttachmentStatus.ATTACHED)
    test = services.start_load_test(organization=host.organization, deployment_id=tuned.pk, now=NOW)
    assert load_testing.step_load_test(test.pk, now=NOW)
    test = LoadTest.objects.get()
    assert (test.status, test.replicas) == (LoadTestStatus.RUNNING, 1)
    assert test.accelerators == {"cpu": 1.0}
