"""What deployments do by themselves, on control workers."""

import logging
from uuid import UUID

from celery import shared_task
from django.utils import timezone

from common import jobs, leases, locks, slots
from deployments import load_testing, reconcile, shadow_answers

logger = logging.getLogger(__name__)

SWEEP_EXPIRES_SECONDS = 4.0


@shared_task(name="deployments.reconcile", time_limit=60)
def reconcile_deployment(*, deployment_id: str, **_: object) -> None:
    reconcile.reconcile_deployment(UUID(deployment_id), now=timezone.now())


@shared_task(name="deployments.place_replica", time_limit=60, throws=(leases.LeaseLost,))
def place_replica(*, replica_id: str, **_: object) -> None:
    reconcile.place_replica(UUID(replica_id), now=timezone.now())


@shared_task(name="deployments.sweep", time_limit=120)
def sweep(**_: object) -> None:
    """Visits everything unsettled; one that cannot be dealt with does not keep the others."""
    with locks.only_one("deployments.sweep") as mine:
        if not mine:
            return
        for pk in list(reconcile.list_unsettled().values_list("pk", flat=True)):
            try:
                reconcile.reconcile_deployment(pk, now=timezone.now())
            except Exception:
                logger.exception("deployment %s could not be reconciled", pk)
        for pk in list(reconcile.list_waiting().values_list("pk", flat=True)):
            try:
                reconcile.place_replica(pk, now=timezone.now())
            except Exception:
                logger.exception("replica %s could not be placed", pk)
        reconcile.release_leftovers(now=timezone.now())
        for pk in list(load_testing.list_due(now=timezone.now()).values_list("pk", flat=True)):
            jobs.enqueue(
                "deployments.load_test_step",
                expires_seconds=SWEEP_EXPIRES_SECONDS,
                load_test_id=str(pk),
            )


@shared_task(name="deployments.load_test_step", throws=(leases.LeaseLost,))
def load_test_step(*, load_test_id: str, **_: object) -> None:
    with slots.slow() as mine:
        moved = mine and load_testing.step_load_test(UUID(load_test_id), now=timezone.now())
    if moved:
        jobs.enqueue("deployments.load_test_step", load_test_id=load_test_id)


@shared_task(name="deployments.autoscale", time_limit=60)
def autoscale(**_: object) -> None:
    """Looks at what gateways tell: the load of deployments that scale, replicas that fell silent."""
    with locks.only_one("deployments.autoscale") as mine:
        if mine:
            reconcile.end_silent(now=timezone.now())
            reconcile.autoscale_all(now=timezone.now())


@shared_task(name="deployments.wake", time_limit=30)
def wake(*, deployment_id: str, **_: object) -> None:
    """A gateway holds a request for a deployment that is asleep."""
    reconcile.wake(UUID(deployment_id), now=timezone.now())


@shared_task(name="deployments.take_shadow_answers", time_limit=60)
def take_shadow_answers(**_: object) -> None:
    shadow_answers.take(now=timezone.now())


@shared_task(name="deployments.forget_shadow_answers", time_limit=60)
def forget_shadow_answers(**_: object) -> None:
    shadow_answers.forget_old(now=timezone.now())
