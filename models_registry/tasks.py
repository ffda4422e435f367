from uuid import UUID

from celery import shared_task
from django.utils import timezone

from common import jobs, leases, slots
from models_registry import reconcile


@shared_task(name="models_registry.run_import", throws=(leases.LeaseLost,))
def run_import(*, import_id: str, **_: object) -> None:
    with slots.slow() as mine:
        if mine:
            reconcile.run_import(UUID(import_id), now=timezone.now())


@shared_task(name="models_registry.sweep")
def sweep(**_: object) -> None:
    for import_id in reconcile.list_due(now=timezone.now()):
        jobs.enqueue("models_registry.run_import", import_id=str(import_id))
