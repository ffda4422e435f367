"""Carrying imports out: a worker takes a lease on one, fetches, checks and publishes it."""

import logging
import shutil
from datetime import datetime
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from common import leases
from common.errors import DomainError
from models_registry import services, sources
from models_registry.choices import ImportStatus, RevisionKind
from models_registry.models import Revision, RevisionImport

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30.0  # kept while a worker is at it; what a killed one's import waits for another
MAX_ATTEMPTS = 5
OPEN = [ImportStatus.PENDING, ImportStatus.RUNNING]


def list_due(*, now: datetime) -> list[UUID]:
    """Imports that nobody is at work on."""
    rows = RevisionImport.objects.filter(status__in=OPEN)
    free = rows.filter(leased_until__isnull=True) | rows.filter(leased_until__lt=now)
    return list(free.values_list("pk", flat=True))


def run_import(import_id: UUID, *, now: datetime) -> bool:
    """Carry one import out; false if it is not due or another worker has it.

    A worker that dies leaves its lease to run out; the next one goes on with the files that are
    there. What cannot succeed ends FAILED with the reason and the remedy in `message`.
    """
    rows = RevisionImport.objects.filter(status__in=OPEN).select_related("organization")
    wanted = leases.take(rows, import_id, now=now, seconds=LEASE_SECONDS)
    if wanted is None:
        return False
    RevisionImport.objects.filter(pk=wanted.pk).update(attempts=wanted.attempts + 1)
    wanted.transition(ImportStatus.RUNNING, now=now, reason="fetching")
    into = Path(settings.FACTORY_DATA) / "imports" / str(wanted.pk)

    def report(done_bytes: int, total_bytes: int | None) -> None:
        RevisionImport.objects.filter(pk=wanted.pk, lease_token=wanted.lease_token).update(
            done_bytes=done_bytes,
            total_bytes=total_bytes,
        )

    try:
        if wanted.attempts >= MAX_ATTEMPTS:
            raise sources.SourceUnavailable(f"Gave up after {MAX_ATTEMPTS} attempts.")
        with leases.kept(wanted, seconds=LEASE_SECONDS):
            published = _fetch_and_publish(wanted, into, report)
    except DomainError as error:
        with leases.finish(wanted) as current:
            current.transition(
                ImportStatus.FAILED,
                now=timezone.now(),
                reason=error.code,
                message=f"{error.message} {error.remedy}".strip(),
            )
        shutil.rmtree(into, ignore_errors=True)  # nobody comes back to a failed import
        return True
    with leases.finish(wanted) as current:
        current.revision = published
        current.done_bytes = current.total_bytes = published.size_bytes
        current.save(update_fields=["revision", "done_bytes", "total_bytes"])
        current.transition(ImportStatus.SUCCEEDED, now=timezone.now(), reason="published")
    shutil.rmtree(into, ignore_errors=True)
    return True


def _fetch_and_publish(wanted: RevisionImport, into: Path, report: sources.Report) -> Revision:
    folder, revision_name = sources.fetch(
        source_kind=wanted.source_kind,
        source=wanted.source,
        source_revision=wanted.source_revision,
        use_token=wanted.may_use_hub_token,
        into=into,
        report=report,
    )
    return services.publish_folder(
        organization=wanted.organization,
        name=wanted.name,
        folder=folder,
        kind=RevisionKind.BASE,
        source_kind=wanted.source_kind,
        source=f"{wanted.source}@{revision_name}" if revision_name else wanted.source,
        visibility=wanted.visibility,
        licence=wanted.licence,
        now=timezone.now(),
    )
