"""What chips does by itself."""

from celery import shared_task
from django.utils import timezone

from chips import services
from common import locks


@shared_task(name="chips.watch_nodes", time_limit=60)
def watch_nodes(**_: object) -> None:
    with locks.only_one("chips.watch_nodes") as mine:
        if mine:
            services.watch_nodes(now=timezone.now())
