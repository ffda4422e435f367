"""Many workers, late, twice and out of order: the same end."""

import random
import threading
import time
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from chips.models import AllocatedSlot, Allocation
from common import leases
from deployments import reconcile, services, tasks
from deployments.choices import PLACED, DeploymentStatus, ReplicaStatus
from deployments.models import Deployment, Replica
from deployments.tests.make import make_deployment, make_node
from engines.fake_host import FakeHost
from engines.host import Seen

pytestmark = pytest.mark.django_db(transaction=True)
S = ReplicaStatus
WORKERS = 6
STORM_SECONDS = 4.0


class QuickHost(FakeHost):
    """Engines that are healthy as soon as they are started, and now and then die."""

    def observe(self, name: str) -> Seen:
        seen = super().observe(name)
        if seen is Seen.STARTING:
            self.seen[name] = seen = Seen.HEALTHY
        return seen


def test_workers_in_each_others_way_neither_lose_nor_double_anything(
    tmp_path: Path, settings
) -> None:
    settings.FACTORY_DATA = tmp_path / "data"
    make_node(accelerators=4)
    deployment = make_deployment(tmp_path, replicas=3)
    host, over, errors = QuickHost(), threading.Event(), []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not over.is_set():
                _do_something(chance, deployment, host)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(WORKERS)]
    for thread in threads:
        thread.start()
    time.sleep(STORM_SECONDS)
    over.set()
    for thread in threads:
        thread.join()
    assert errors == []

    services.scale_deployment(
        organization=deployment.organization, deployment_id=deployment.pk, replicas=2, now=_now()
    )
    Deployment.objects.update(failures=0, next_start_at=None)
    _settle(deployment, host, DeploymentStatus.READY)
    live = Replica.objects.filter(status__in=PLACED)
    assert [replica.status for replica in live] == [S.READY, S.READY]
    held = Allocation.objects.filter(released_at__isnull=True)
    assert set(held.values_list("holder_id", flat=True)) == {replica.pk for replica in live}
    assert AllocatedSlot.objects.filter(released_at__isnull=True).count() == 2
    running = {name for name, seen in host.seen.items() if seen is Seen.HEALTHY}
    assert running == {str(replica.pk) for replica in live}


def _do_something(chance: random.Random, deployment: Deployment, host: FakeHost) -> None:
    replicas = list(Replica.objects.exclude(status__in=[S.FAILED, S.STOPPED]))
    some = chance.choice(replicas) if replicas else None
    roll = chance.random()
    try:
        if roll < 0.3:
            reconcile.reconcile_deployment(deployment.pk, now=_now())
        elif roll < 0.5 and some is not None:
            reconcile.place_replica(some.pk, now=_now())
        elif roll < 0.85 and some is not None:
            reconcile.step_replica(some.pk, host=host, now=_now())
        elif roll < 0.9 and some is not None and host.observe(str(some.pk)) is Seen.HEALTHY:
            host.seen[str(some.pk)] = Seen.EXITED
            Deployment.objects.update(failures=0, next_start_at=None)
        elif roll < 0.95:
            services.scale_deployment(
                organization=deployment.organization,
                deployment_id=deployment.pk,
                replicas=chance.randrange(5),
                now=_now(),
            )
        else:
            tasks.sweep()
    except leases.LeaseLost:
        pass


def _settle(deployment: Deployment, host: FakeHost, status: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        tasks.sweep()
        for pk in list(Replica.objects.filter(status__in=PLACED).values_list("pk", flat=True)):
            reconcile.step_replica(pk, host=host, now=_now())
        deployment.refresh_from_db()
        if deployment.status == status and not reconcile.list_unsettled().exists():
            return
        assert time.monotonic() < deadline, (deployment.status, deployment.message)
        time.sleep(0.05)


def _now():
    return timezone.now()
