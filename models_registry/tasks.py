from uuid import UUID

from celery import shared_task
from django.utils import timezone

from common import jobs, leases, slots
from models_registry import merge_work, reconcile

SWEEP_EXPIRES_SECONDS = 10.0


@shared_task(name="models_registry.run_import", throws=(leases.LeaseLost,))
def run_import(*, import_id: str, **_: object) -> None:
    with slots.slow() as mine:
        if mine:
            reconcile.run_import(UUID(import_id), now=timezone.now())


@shared_task(name="models_registry.run_merge", throws=(leases.LeaseLost,))
def run_merge(*, merge_id: str, **_: object) -> None:
    with slots.slow() as mine:
        if mine:
            merge_work.run_merge(UUID(merge_id), now=timezone.now())


@shared_task(name="models_registry.sweep")
def sweep(**_: object) -> None:
    now = timezone.now()
    for import_id in reconcile.list_due(now=now):
        jobs.enqueue("models_registry.run_import", import_id=str(import_id))
    for merge_id in merge_work.list_due(now=now):
        jobs.enqueue(
            "models_registry.run_merge",
            expires_seconds=SWEEP_EXPIRES_SECONDS,
            merge_id=str(merge_id),
        )
