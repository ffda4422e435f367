"""Deployments and placing: from wanted to rows, and to accelerators."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from accounts.tests.make import NOW
from chips import services as chips
from chips.choices import NodeStatus, Purpose
from chips.models import AllocatedSlot, Allocation
from deployments import reconcile, services, tasks
from deployments.choices import DeploymentStatus, ReplicaStatus
from deployments.models import Deployment, Replica, ReplicaEvent
from deployments.reconcile.moves import MAX_FAILURES, count_failure, pause_seconds
from deployments.tests.make import make_deployment, make_node, make_replica

pytestmark = pytest.mark.django_db
S = ReplicaStatus
D = DeploymentStatus


def look(deployment: Deployment, *, after: float = 0) -> Deployment:
    reconcile.reconcile_deployment(deployment.pk, now=NOW + timedelta(seconds=after))
    deployment.refresh_from_db()
    return deployment


def statuses(deployment: Deployment) -> list[str]:
    rows = Replica.objects.filter(deployment=deployment).order_by("created_at", "id")
    return list(rows.values_list("status", flat=True))


def scale(deployment: Deployment, replicas: int) -> None:
    services.scale_deployment(
        organization=deployment.organization,
        deployment_id=deployment.pk,
        replicas=replicas,
        now=NOW,
    )


def test_missing_replicas_are_made_once(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, replicas=2)
    look(deployment)
    assert look(deployment).status == D.PENDING
    assert statuses(deployment) == [S.PENDING, S.PENDING]
    assert deployment.observed_generation == deployment.generation


def test_as_many_ready_as_wanted_is_ready_and_settled(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, replicas=2)
    make_replica(deployment, status=S.READY)
    assert look(deployment).status == D.DEGRADED
    Replica.objects.filter(status=S.PENDING).delete()
    make_replica(deployment, status=S.READY)
    assert look(deployment).status == D.READY
    assert not reconcile.list_unsettled().exists()


def test_what_is_too_much_is_let_go_the_least_useful_first(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, replicas=3)
    starting = make_replica(deployment, status=S.STARTING)
    ready = make_replica(deployment, status=S.READY)
    pending = make_replica(deployment, status=S.PENDING)
    scale(deployment, 1)
    look(deployment)
    for row in (starting, ready, pending):
        row.refresh_from_db()
    assert (starting.wanted, ready.wanted, pending.wanted) == (False, True, False)
    assert pending.status == S.STOPPED  # held nothing: gone at once
    assert starting.status == S.STARTING  # its node's agent drains it


def test_scaled_to_none_is_stopped_once_the_last_has_gone(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    replica = make_replica(deployment, status=S.READY)
    look(deployment)
    scale(deployment, 0)
    assert look(deployment).status != D.STOPPED
    Replica.objects.filter(pk=replica.pk).update(status=S.STOPPED)
    assert reconcile.list_unsettled().exists()  # found without any message
    assert look(deployment).status == D.STOPPED
    assert not reconcile.list_unsettled().exists()


@pytest.mark.parametrize("was", [D.READY, D.FAILED, D.PENDING])
def test_a_deleted_deployment_keeps_its_row_and_frees_its_name(tmp_path: Path, was: str) -> None:
    deployment = make_deployment(tmp_path)
    replica = make_replica(deployment, status=S.READY)
    Deployment.objects.update(status=was)
    look(deployment)
    services.delete_deployment(
        organization=deployment.organization, deployment_id=deployment.pk, now=NOW
    )
    assert look(deployment).deleted_at is None
    Replica.objects.filter(pk=replica.pk).update(status=S.STOPPED)
    assert reconcile.list_unsettled().exists()  # found without any message
    look(deployment)
    assert (deployment.status, deployment.deleted_at) == (D.DELETED, NOW)
    make_deployment(tmp_path, revision=deployment.revision)


def test_a_lost_nodes_replica_fails_is_replaced_and_gives_back_its_accelerator(
    tmp_path: Path,
) -> None:
    deployment = make_deployment(tmp_path)
    replica = make_replica(deployment, status=S.READY)
    assert look(deployment).status == D.READY
    assert replica.node is not None
    replica.node.transition(NodeStatus.LOST, now=NOW)
    assert reconcile.list_unsettled().exists()
    look(deployment)
    replica.refresh_from_db()
    assert (replica.status, replica.status_reason) == (S.FAILED, "node_lost")
    assert not AllocatedSlot.objects.filter(released_at__isnull=True).exists()
    assert statuses(deployment) == [S.FAILED, S.PENDING]
    assert deployment.failures == 0  # not the engine's fault


def test_replacements_wait_out_the_pause(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    pause = timedelta(seconds=8)
    Deployment.objects.update(failures=4, next_start_at=NOW + pause)
    look(deployment, after=7)
    assert statuses(deployment) == []
    assert "4 failures" in deployment.message
    look(deployment, after=8)
    assert statuses(deployment) == [S.PENDING]


def test_pauses_grow_and_end() -> None:
    assert [pause_seconds(n) for n in (0, 1, 2, 3, 4, 20)] == [0, 0, 2, 4, 8, 60]


def test_after_too_many_failures_it_gives_up_and_says_why(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    failed = make_replica(deployment, status=S.STARTING)
    failed.transition(S.FAILED, now=NOW, reason="engine_exited", message="No memory left.")
    Replica.objects.update(ended_at=NOW)
    starting = make_replica(deployment, status=S.STARTING)
    Deployment.objects.update(failures=MAX_FAILURES)
    look(deployment)
    starting.refresh_from_db()
    assert not starting.wanted  # burns no more chips
    assert (deployment.status, deployment.status_reason) == (D.FAILED, "replicas_failed")
    assert "No memory left." in deployment.message
    scale(deployment, 1)
    assert look(deployment).status == D.PENDING


@pytest.mark.parametrize(
    ("was_ready", "counted"), [(False, MAX_FAILURES), (True, MAX_FAILURES - 1)]
)
def test_only_replicas_that_never_were_ready_make_it_give_up(
    tmp_path: Path, was_ready: bool, counted: int
) -> None:
    deployment = make_deployment(tmp_path)
    replica = make_replica(deployment, status=S.STARTING)
    replica.ready_at = NOW if was_ready else None
    Deployment.objects.update(failures=MAX_FAILURES - 1)
    count_failure(replica, now=NOW + timedelta(seconds=5))
    deployment.refresh_from_db()
    assert deployment.failures == counted
    assert deployment.next_start_at == NOW + timedelta(seconds=5 + pause_seconds(counted))


def test_a_ready_replica_stays_when_its_sisters_fail(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, replicas=2)
    ready = make_replica(deployment, status=S.READY)
    Deployment.objects.update(failures=MAX_FAILURES)
    assert look(deployment).status == D.DEGRADED
    ready.refresh_from_db()
    assert ready.wanted
    assert statuses(deployment) == [S.READY]


def test_placing_holds_an_accelerator_and_hands_over(tmp_path: Path) -> None:
    node = make_node()
    replica = make_replica(make_deployment(tmp_path), status=S.PENDING)
    assert reconcile.place_replica(replica.pk, now=NOW)
    assert not reconcile.place_replica(replica.pk, now=NOW)
    replica.refresh_from_db()
    assert (replica.status, replica.node, replica.address) == (S.STARTING, node, "127.0.0.1")
    assert replica.allocation is not None
    assert replica.allocation.holder_id == replica.pk
    assert replica.lease_token is None


def test_where_nothing_fits_the_replica_waits_and_says_why(tmp_path: Path) -> None:
    make_node(accelerators=1)
    deployment = make_deployment(tmp_path, accelerators_per_replica=2)
    look(deployment)
    replica = Replica.objects.get()
    assert not reconcile.place_replica(replica.pk, now=NOW)
    replica.refresh_from_db()
    assert (replica.status, replica.status_reason) == (S.PENDING, "nothing_fits")
    assert look(deployment).message == replica.message != ""


def test_a_replica_unwanted_while_it_is_placed_gives_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_node()
    deployment = make_deployment(tmp_path)
    look(deployment)
    replica = Replica.objects.get()
    allocate = chips.allocate

    def slow_allocate(**options: Any) -> Allocation:
        scale(deployment, 0)
        look(deployment)
        return allocate(**options)

    monkeypatch.setattr(chips, "allocate", slow_allocate)
    assert not reconcile.place_replica(replica.pk, now=NOW)
    assert statuses(deployment) == [S.STOPPED]
    assert not Allocation.objects.filter(released_at__isnull=True).exists()


def test_leftovers_of_a_killed_worker_are_given_back(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    kept = make_replica(deployment, status=S.READY)
    ended = make_replica(deployment, status=S.READY)
    Replica.objects.filter(pk=ended.pk).update(status=S.STOPPED)
    Allocation.objects.create(
        organization=deployment.organization,
        purpose=Purpose.TRAINING,
        holder_id=uuid4(),
        accelerator_share=1,
        held_at=NOW,
    )
    assert reconcile.release_leftovers(now=NOW) == 1
    assert reconcile.release_leftovers(now=NOW) == 0
    assert kept.allocation is not None
    kept.allocation.refresh_from_db()
    assert kept.allocation.released_at is None


@pytest.mark.django_db(transaction=True)
def test_the_sweep_alone_brings_a_deployment_onto_a_node(tmp_path: Path) -> None:
    make_node()
    deployment = make_deployment(tmp_path, replicas=2)
    tasks.sweep()
    assert statuses(deployment) == [S.STARTING, S.STARTING]
    kinds = list(ReplicaEvent.objects.values_list("kind", flat=True))
    assert sorted(set(kinds)) == [S.PENDING, S.STARTING]


def test_the_sweeps_question_is_one_query(tmp_path: Path, django_assert_num_queries) -> None:
    deployment = make_deployment(tmp_path)
    make_replica(deployment, status=S.READY)
    look(deployment)
    with django_assert_num_queries(1):
        assert list(reconcile.list_unsettled()) == []
