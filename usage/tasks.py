"""The ledger's two sweeps."""

import logging

from celery import shared_task
from django.utils import timezone

from usage import ingest as ingesting
from usage import rollups

logger = logging.getLogger(__name__)


@shared_task(name="usage.ingest", time_limit=120)
def ingest(**_: object) -> None:
    """Take in what gateways told."""
    ingesting.ingest(now=timezone.now())


@shared_task(name="usage.roll_up", time_limit=600)
def roll_up(**_: object) -> None:
    """Bring every active organization's records up to now; one that fails does not stop the rest."""
    now = timezone.now()
    complete_until = ingesting.complete_until(now=now)
    for organization in rollups.list_active_organizations(now=now):
        try:
            rollups.roll_up_open(organization=organization, now=now, complete_until=complete_until)
        except Exception:
            logger.exception("cannot roll up the usage of %s", organization)
