"""Notes from when until when an organization's things take room, so that it can be billed later.

What there is is compared with what is noted: a new thing begins a row, one that is gone ends its
row, one whose size changed does both. Apps above this one add what they keep by `register`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import OuterRef, Subquery, Sum
from django.db.models.functions import Coalesce

from accounts.models import Organization
from models_registry.models import Revision
from training.models import Checkpoint, DatasetSource, DatasetSplit, DatasetVersion
from usage import sealing
from usage.choices import Stored
from usage.models import StorageHolding


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that takes room now. `name` is what its line on a statement says."""

    kind: str
    subject_id: UUID
    name: str
    size_bytes: int
    created_at: datetime


Source = Callable[[Organization], Iterable[Thing]]
_sources: list[Source] = []


def register(source: Source) -> None:
    """Things of an app that this one does not know count too."""
    if source not in _sources:
        _sources.append(source)


@transaction.atomic
def observe(*, organization: Organization, now: datetime) -> None:
    """Bring the notes up to what there is now. Never changes an hour that is sealed."""
    sealing.lock(organization.pk)
    sealed = sealing.sealed_until(organization.pk)
    rows = StorageHolding.objects.of(organization).filter(released_at__isnull=True)
    noted = {(row.kind, row.subject_id): row for row in rows}
    new: list[StorageHolding] = []
    for thing in list_things(organization):
        row = noted.pop((thing.kind, thing.subject_id), None)
        if row is not None and row.size_bytes == thing.size_bytes:
            continue
        since = now if row is not None else thing.created_at
        if row is not None:
            _end(row, now=now)
        new.append(
            StorageHolding(
                organization=organization,
                kind=thing.kind,
                subject_id=thing.subject_id,
                subject_name=thing.name[:200],
                size_bytes=thing.size_bytes,
                held_at=max(since, sealed) if sealed else since,
            )
        )
    for row in noted.values():
        _end(row, now=now)
    StorageHolding.objects.bulk_create(new)


def list_things(organization: Organization) -> Iterator[Thing]:
    """All that takes room now and is the organization's own."""
    yield from _revisions(organization)
    yield from _dataset_versions(organization)
    yield from _checkpoints(organization)
    for source in _sources:
        yield from source(organization)


def _end(row: StorageHolding, *, now: datetime) -> None:
    row.released_at = max(now, row.held_at)
    row.save(update_fields=["released_at"])


def _revisions(organization: Organization) -> Iterator[Thing]:
    rows = Revision.objects.filter(registered_model__organization=organization, size_bytes__gt=0)
    fields = ("pk", "registered_model__name", "size_bytes", "created_at")
    for row in rows.order_by().values_list(*fields):
        yield Thing(Stored.REVISION, *row)


def _dataset_versions(organization: Organization) -> Iterator[Thing]:
    def total(model: type[DatasetSource] | type[DatasetSplit]) -> Coalesce:
        rows = model.objects.filter(version=OuterRef("pk")).order_by().values("version")
        return Coalesce(Subquery(rows.annotate(all=Sum("size_bytes")).values("all")), 0)

    rows = DatasetVersion.objects.filter(dataset__organization=organization).annotate(
        size=total(DatasetSource) + total(DatasetSplit)
    )
    fields = ("pk", "dataset__name", "size", "created_at")
    for row in rows.filter(size__gt=0).order_by().values_list(*fields):
        yield Thing(Stored.DATASET_VERSION, *row)


def _checkpoints(organization: Organization) -> Iterator[Thing]:
    rows = Checkpoint.objects.filter(
        run__organization=organization, pruned_at__isnull=True, size_bytes__gt=0
    )
    for row in rows.order_by().values_list("pk", "run__name", "size_bytes", "created_at"):
        yield Thing(Stored.CHECKPOINT, *row)
