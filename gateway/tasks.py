"""What the gateway's code does on control workers."""

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from gateway import provider_check


@shared_task(name="gateway.check_provider", time_limit=60)
def check_provider(*, provider_id: str, **_: object) -> None:
    provider_check.check_provider(UUID(provider_id), now=timezone.now())
