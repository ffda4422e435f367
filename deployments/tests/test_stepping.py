"""A placed replica and its engine, on a host without processes."""

import random
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from accounts.tests.make import NOW
from chips.models import AllocatedSlot
from common import leases
from deployments import planning, reconcile
from deployments.choices import ReplicaStatus
from deployments.models import Deployment, Replica, ReplicaEvent
from deployments.tests.make import make_deployment, make_replica
from engines.fake_host import FakeHost
from engines.host import Seen, ServeSpec, SpecError
from models_registry import storage
from models_registry.models import Artifact

pytestmark = pytest.mark.django_db
S = ReplicaStatus


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, settings) -> None:
    settings.FACTORY_DATA = tmp_path / "data"
    settings.FACTORY_STORAGE = str(tmp_path / "storage")


def step(replica: Replica, host: FakeHost, *, after: float = 0) -> Replica:
    reconcile.step_replica(replica.pk, host=host, now=NOW + timedelta(seconds=after))
    replica.refresh_from_db()
    return replica


def holds(replica: Replica) -> bool:
    return AllocatedSlot.objects.filter(
        allocation=replica.allocation, released_at__isnull=True
    ).exists()


def test_a_wanted_replica_is_ready_once_its_engine_is_healthy(
    tmp_path: Path, host: FakeHost
) -> None:
    replica = make_replica(make_deployment(tmp_path))
    assert step(replica, host).status == S.STARTING
    assert host.started == [str(replica.pk)]
    spec = host.specs[str(replica.pk)]
    assert (spec.port, spec.cores, spec.threads) == (replica.port, (0,), 1)
    assert (Path(spec.model_path) / "config.json").exists()
    assert spec.token == planning.replica_token(replica.pk)
    step(replica, host)
    assert host.started == [str(replica.pk)]
    host.seen[str(replica.pk)] = Seen.HEALTHY
    step(replica, host, after=3)
    assert (replica.status, replica.ready_at) == (S.READY, NOW + timedelta(seconds=3))
    assert replica.lease_token is None
    kinds = list(ReplicaEvent.objects.values_list("kind", flat=True))
    assert kinds == [S.READY]


def test_the_port_is_written_before_the_engine_starts(tmp_path: Path) -> None:
    class Watching(FakeHost):
        def start(self, spec: ServeSpec) -> None:
            assert Replica.objects.get().port == spec.port
            super().start(spec)

    replica = make_replica(make_deployment(tmp_path))
    host = Watching()
    step(replica, host)
    assert len(host.started) == 1


def test_a_port_that_is_in_use_is_not_taken(
    tmp_path: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = make_deployment(tmp_path)
    other = make_replica(deployment, status=S.READY)
    replica = make_replica(deployment)
    assert other.port is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        busy, free = listener.getsockname()[1], other.port + 1
        monkeypatch.setattr(random, "sample", lambda *_: [busy, other.port, free])
        assert step(replica, host).port == free


def test_an_engine_that_exits_has_failed_and_its_last_words_are_kept(
    tmp_path: Path, host: FakeHost
) -> None:
    deployment = make_deployment(tmp_path)
    replica = make_replica(deployment)
    step(replica, host)
    host.seen[str(replica.pk)] = Seen.EXITED
    host.logs[str(replica.pk)] = "loading\nERROR cannot serve (memory_short): 3 GB wanted\nbye\n"
    step(replica, host)
    assert (replica.status, replica.status_reason) == (S.FAILED, "out_of_memory")
    assert "3 GB wanted" in replica.message
    assert "smaller" in replica.message  # the remedy
    assert replica.log_tail.startswith("loading")
    assert replica.ended_at == NOW
    assert not holds(replica)
    deployment.refresh_from_db()
    assert (deployment.failures, deployment.next_start_at) == (1, NOW)


def test_failures_in_a_row_are_counted_until_one_was_steady(tmp_path: Path, host: FakeHost) -> None:
    deployment = make_deployment(tmp_path)
    Deployment.objects.update(failures=3)
    quick = make_replica(deployment, status=S.READY)
    host.seen[str(quick.pk)] = Seen.EXITED
    step(quick, host, after=5)
    deployment.refresh_from_db()
    assert deployment.failures == 4
    steady = make_replica(deployment, status=S.READY)
    host.seen[str(steady.pk)] = Seen.EXITED
    step(steady, host, after=60)
    deployment.refresh_from_db()
    assert deployment.failures == 1


def test_an_engine_that_vanished_has_failed(tmp_path: Path, host: FakeHost) -> None:
    replica = make_replica(make_deployment(tmp_path), status=S.READY)
    step(replica, host)
    assert (replica.status, replica.status_reason) == (S.FAILED, "engine_lost")


def test_a_start_that_takes_too_long_is_ended_then_failed(tmp_path: Path, host: FakeHost) -> None:
    deployment = make_deployment(tmp_path, settings={"startup_limit_seconds": 60})
    replica = make_replica(deployment)
    step(replica, host)
    assert step(replica, host, after=60).status == S.STARTING
    assert step(replica, host, after=61).status == S.DRAINING
    assert holds(replica)  # until the process is gone
    step(replica, host, after=62)
    assert host.stopped == [str(replica.pk)]
    step(replica, host, after=63)
    assert (replica.status, replica.status_reason) == (S.FAILED, "startup_limit")
    assert not holds(replica)
    deployment.refresh_from_db()
    assert deployment.failures == 1


def test_an_engine_that_answers_no_more_is_ended_then_failed(
    tmp_path: Path, host: FakeHost
) -> None:
    replica = make_replica(make_deployment(tmp_path), status=S.READY)
    name = str(replica.pk)
    host.seen[name] = Seen.UNHEALTHY
    host.slow_to_stop.add(name)
    assert step(replica, host).status == S.DRAINING
    for second in (1, 2, 3):
        step(replica, host, after=second)
    assert (replica.status, holds(replica)) == (S.DRAINING, True)
    host.seen[name] = Seen.EXITED
    step(replica, host, after=4)
    assert (replica.status, replica.status_reason) == (S.FAILED, "engine_unhealthy")
    assert not holds(replica)


def test_an_unwanted_replica_drains_after_gateways_have_heard(
    tmp_path: Path, host: FakeHost
) -> None:
    replica = make_replica(make_deployment(tmp_path), status=S.READY)
    host.seen[str(replica.pk)] = Seen.HEALTHY
    Replica.objects.update(wanted=False)
    assert step(replica, host).status == S.DRAINING
    assert replica.drain_deadline_at == NOW + timedelta(seconds=30)
    step(replica, host, after=0.5)
    assert host.stopped == []
    step(replica, host, after=1)
    assert host.stopped == [str(replica.pk)]
    assert holds(replica)
    step(replica, host, after=2)
    assert (replica.status, replica.status_reason) == (S.STOPPED, "drained")
    assert not holds(replica)
    replica.deployment.refresh_from_db()
    assert replica.deployment.failures == 0


def test_a_replica_unwanted_before_its_start_is_never_started(
    tmp_path: Path, host: FakeHost
) -> None:
    replica = make_replica(make_deployment(tmp_path))
    Replica.objects.update(wanted=False)
    step(replica, host)
    step(replica, host)
    assert replica.status == S.STOPPED
    assert host.started == []


def test_weights_that_are_missing_fail_the_replica_with_the_reason(
    tmp_path: Path, host: FakeHost
) -> None:
    replica = make_replica(make_deployment(tmp_path))
    for artifact in Artifact.objects.filter(revision=replica.revision):
        storage.blob_path(artifact.blob_id).unlink()
    step(replica, host)
    assert (replica.status, host.started) == (S.FAILED, [])
    assert replica.message
    assert not holds(replica)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("no such program"), "cannot_start"), (SpecError("dtype", "bad", "mend"), "bad_spec")],
)
def test_an_engine_that_cannot_be_started_fails_the_replica(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    class Broken(FakeHost):
        def start(self, spec: ServeSpec) -> None:
            raise error

    replica = make_replica(make_deployment(tmp_path))
    step(replica, Broken())
    assert (replica.status, replica.status_reason) == (S.FAILED, reason)


def test_a_row_under_another_lease_is_left_alone(tmp_path: Path, host: FakeHost) -> None:
    replica = make_replica(make_deployment(tmp_path))
    leases.take(Replica.objects.all(), replica.pk, now=NOW)
    assert not reconcile.step_replica(replica.pk, host=host, now=NOW)
    assert host.started == []
    assert replica.node_id is not None
    assert reconcile.break_leases(replica.node_id) == 1
    assert reconcile.break_leases(replica.node_id) == 0
    step(replica, host)
    assert len(host.started) == 1


def test_a_lease_that_is_lost_meanwhile_writes_nothing(tmp_path: Path) -> None:
    class Slow(FakeHost):
        def observe(self, name: str) -> Seen:
            Replica.objects.update(lease_token=None)  # ran out, taken, finished by another
            return Seen.EXITED

    replica = make_replica(make_deployment(tmp_path))
    with pytest.raises(leases.LeaseLost):
        reconcile.step_replica(replica.pk, host=Slow(), now=NOW)
    replica.refresh_from_db()
    assert replica.status == S.STARTING


def test_an_ended_replica_is_not_stepped(tmp_path: Path, host: FakeHost) -> None:
    replica = make_replica(make_deployment(tmp_path))
    Replica.objects.update(status=S.FAILED)
    assert not reconcile.step_replica(replica.pk, host=host, now=NOW)
    assert host.started == []


def test_a_start_that_always_crashes_ends_at_the_limit(
    tmp_path: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(spec: ServeSpec) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(host, "start", crash)
    replica = make_replica(make_deployment(tmp_path, settings={"startup_limit_seconds": 60}))
    with pytest.raises(RuntimeError):
        step(replica, host)
    assert step(replica, host, after=61).status == S.DRAINING
    assert step(replica, host, after=62).status == S.FAILED
    assert not holds(replica)
