"""Counting the tokens of a version once more, with the tokenizer of another model: asked for here,
done by a worker."""

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit
from accounts.models import Organization
from common import jobs, leases
from common.errors import NotFound
from common.texts import Text, storable
from models_registry.models import Revision
from training import token_counts
from training.choices import CountStatus
from training.models import DatasetVersion, TokenCount
from training.services.dataset_versions import check_ready

LEASE_SECONDS = 30.0


def count_tokens(
    *,
    organization: Organization,
    version_id: UUID,
    revision_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> TokenCount:
    """The count of this version by this model: the one there is, one that failed begun anew, or a
    new one. Raises NotFound, InvalidInput (version: it is not ready)."""
    versions = DatasetVersion.objects.filter(dataset__organization=organization)
    version = versions.select_related("dataset").filter(pk=version_id).first()
    if version is None:
        raise NotFound(Text("No such dataset version."))
    check_ready(version, "version")
    revision = Revision.objects.of(organization).filter(pk=revision_id).first()
    if revision is None:
        raise NotFound(Text("No such revision."), field="revision")
    with transaction.atomic():
        row, is_new = TokenCount.objects.select_for_update(no_key=True).get_or_create(
            version=version, revision=revision, defaults={"created_at": now}
        )
        if not is_new and row.status != CountStatus.FAILED:
            return row
        row.transition(CountStatus.COUNTING, now=now)
        audit.record(
            organization=organization,
            actor=actor,
            action="dataset.count_tokens",
            object_id=version.pk,
            object_name=str(version),
            after={"revision": str(revision)},
            now=now,
        )
        jobs.enqueue("training.count_tokens", count_id=str(row.pk))
    return row


def list_due(*, now: datetime) -> list[UUID]:
    """Counts that no worker is at."""
    free = Q(leased_until__isnull=True) | Q(leased_until__lt=now)
    rows = TokenCount.objects.filter(free, status=CountStatus.COUNTING)
    return list(rows.order_by("created_at").values_list("pk", flat=True))


def step_count(count_id: UUID, *, now: datetime) -> bool:
    """Count; false if it is not due or another worker has it."""
    rows = TokenCount.objects.filter(status=CountStatus.COUNTING)
    row = leases.take(rows, count_id, now=now, seconds=LEASE_SECONDS)
    if row is None:
        return False
    figures, refusal = {}, ""
    with leases.kept(row, seconds=LEASE_SECONDS):
        try:
            with token_counts.tokenizer_folder(row.revision) as folder:
                for split in row.version.splits.all():
                    figures[split.name] = token_counts.count(folder, split.blob_id)
        except token_counts.CannotCount as error:
            refusal = storable(str(error))
    with leases.finish(row) as current:
        if refusal:
            current.transition(
                CountStatus.FAILED, now=timezone.now(), reason="cannot_count", message=refusal
            )
        else:
            current.splits = figures
            current.save(update_fields=["splits"])
            current.transition(CountStatus.READY, now=timezone.now(), reason="counted")
    return True
