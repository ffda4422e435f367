"""What accounts does by itself."""

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from accounts import limits


@shared_task(name="accounts.warn_of_limit", time_limit=60)
def warn_of_limit(limit_id: str, percent: int, period_start: float, **_: object) -> None:
    limits.warn(
        limit_id=UUID(limit_id), percent=percent, period_start=period_start, now=timezone.now()
    )
