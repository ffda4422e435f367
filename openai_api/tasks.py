"""What fine-tuning jobs do by themselves, on control workers."""

import logging
from uuid import UUID

from celery import shared_task
from django.utils import timezone

from common import jobs, leases, locks, slots
from openai_api import reconcile, selectors
from openai_api.services.files import expire_files

logger = logging.getLogger(__name__)

STEP_EXPIRES_SECONDS = 10.0


@shared_task(name="openai_api.step_job", throws=(leases.LeaseLost,))
def step_job(*, job_id: str, **_: object) -> None:
    with slots.slow() as mine:
        if mine:
            reconcile.step_job(UUID(job_id), now=timezone.now())


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
