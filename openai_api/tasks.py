"""What fine-tuning jobs do by themselves, on control workers."""

import logging
from uuid import UUID

from celery import shared_task
from django.db.models import Q
from django.utils import timezone

from common import jobs, leases, locks, slots
from openai_api import batching, reconcile, selectors
from openai_api.services.files import expire_files

logger = logging.getLogger(__name__)

STEP_EXPIRES_SECONDS = 10.0


@shared_task(name="openai_api.step_job", throws=(leases.LeaseLost,))
def step_job(*, job_id: str, **_: object) -> None:
    with slots.slow() as mine:
        if mine:
            reconcile.step_job(UUID(job_id), now=timezone.now())


@shared_task(name="openai_api.step_batch", throws=(leases.LeaseLost,))
def step_batch(*, batch_id: str, **_: object) -> None:
    with slots.slow() as mine:
        moved = mine and batching.step_batch(UUID(batch_id), now=timezone.now())
    if moved:
        jobs.enqueue("openai_api.step_batch", batch_id=batch_id)


@shared_task(name="openai_api.sweep", time_limit=60)
def sweep(**_: object) -> None:
    """Visits every job of which something is to be done."""
    with locks.only_one("openai_api.sweep") as mine:
        if not mine:
            return
        expire_files(now=timezone.now())
        for pk in selectors.list_unsettled().values_list("pk", flat=True):
            jobs.enqueue(
                "openai_api.step_job", expires_seconds=STEP_EXPIRES_SECONDS, job_id=str(pk)
            )
        now = timezone.now()
        free = Q(leased_until__isnull=True) | Q(leased_until__lt=now)
        for pk in selectors.list_open_batches().filter(free).values_list("pk", flat=True):
            jobs.enqueue(
                "openai_api.step_batch", expires_seconds=STEP_EXPIRES_SECONDS, batch_id=str(pk)
            )
