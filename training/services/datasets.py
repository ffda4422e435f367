"""Datasets: a bad upload is refused whole, a good one becomes an immutable version."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from accounts import audit
from accounts.models import Organization
from common.errors import DomainError, InvalidInput, NotFound
from models_registry import storage
from models_registry.models import Blob, Revision
from models_registry.models.registered_model import NAME
from training import dataset_check, token_counts
from training.dataset_check import Report
from training.models import Dataset, DatasetSplit, DatasetVersion

SPLIT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MAX_SPLITS = 20
CHUNK_BYTES = 2**20


class DatasetNameTaken(DomainError):
    code = "name_taken"


class DatasetInvalid(DomainError):
    """Lines that cannot be trained on; `details` is the whole report, errors with line numbers."""

    code = "dataset_invalid"
    status_code = 422


def create_dataset(
    *,
    organization: Organization,
    name: str,
    description: str = "",
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Dataset:
    """A new dataset without lines. Raises InvalidInput (name), DatasetNameTaken."""
    check_name(name)
    try:
        with transaction.atomic():
            dataset = Dataset.objects.create(
                organization=organization, name=name, description=description, created_at=now
            )
            audit.record(
                organization=organization,
                actor=actor,
                action="dataset.create",
                object_id=dataset.pk,
                object_name=name,
                now=now,
            )
    except IntegrityError as error:
        raise DatasetNameTaken(
            f"A dataset named {name} exists.",
            field="name",
            remedy="Upload a new version to it, or choose another name.",
        ) from error
    return dataset


def upload_version(
    *,
    organization: Organization,
    dataset_id: UUID,
    files: Mapping[str, Path | BinaryIO],
    tokenizer_revision: Revision | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> DatasetVersion:
    """Check every line of every split, then store them as the dataset's next version.

    Raises NotFound, InvalidInput (split names, sizes) and DatasetInvalid, which stores nothing.
    The same files as the latest version's return that version. Tokens are counted if a model is
    given that can; a model that cannot is named in the report and refuses nothing.
    """
    dataset = Dataset.objects.of(organization).filter(pk=dataset_id).first()
    if dataset is None:
        raise NotFound("No such dataset.")
    _check_split_names(files)
    with ExitStack() as stack:
        opened: dict[str, BinaryIO] = {
            name: stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
            for name, file in files.items()
        }
        _check_sizes(opened)
        report = dataset_check.check(opened)
        if not report.is_valid:
            raise _refusal(report)
        blobs = {name: _store(report, name, file, now=now) for name, file in opened.items()}
    details = report.as_json()
    details["tokenizer"] = _count_tokens(blobs, details["splits"], tokenizer_revision)
    return _add_version(dataset, blobs, details, actor=actor, now=now)


def check_name(name: str, field: str = "name") -> None:
    """Names of datasets, runs and results follow the registry's rule. Raises InvalidInput."""
    try:
        NAME(name)
    except ValidationError as error:
        raise InvalidInput(
            f"{name!r} cannot be a name.", field=field, remedy=str(error.messages[0])
        ) from error


def _check_split_names(files: Mapping[str, object]) -> None:
    if not files:
        raise InvalidInput(
            "There is no file.",
            field="files",
            remedy="Send a file for each split, under the split's name: train, heldout, ...",
        )
    if len(files) > MAX_SPLITS:
        raise InvalidInput(f"More than {MAX_SPLITS} splits.", field="files")
    for name in files:
        if not SPLIT_NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r} cannot be a split's name.",
                field="files",
                remedy="Use up to 40 small letters, digits, hyphens and underscores.",
            )


def _check_sizes(files: Mapping[str, BinaryIO]) -> None:
    total = 0
    for file in files.values():
        total += file.seek(0, 2)
        file.seek(0)
    limit = settings.FACTORY_MAX_UPLOAD_BYTES
    if total > limit:
        raise InvalidInput(
            f"The files have {total:,} bytes, more than the {limit:,} that one upload may have.",
            field="files",
            remedy="Upload parts of it as datasets of their own.",
        )


def _refusal(report: Report) -> DatasetInvalid:
    first = report.errors[0]
    more = report.errors_total - 1
    return DatasetInvalid(
        f"{first['split']} line {first['line']}: {first['message']}"
        + (f" And {more:,} more errors." if more else ""),
        field=f"files.{first['split']}",
        remedy=first["remedy"],
        details=report.as_json(),
    )


def _store(report: Report, name: str, file: BinaryIO, *, now: datetime) -> Blob:
    file.seek(0)
    blob = storage.put_chunks(_chunks(file), now=now)
    if blob.sha256 != report.splits[name].sha256:
        raise InvalidInput(
            f"The file of split {name} changed while it was read.",
            field=f"files.{name}",
            remedy="Upload it again once nothing writes to it any more.",
        )
    return blob


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _count_tokens(
    blobs: Mapping[str, Blob], splits: dict[str, dict[str, Any]], revision: Revision | None
) -> dict[str, str] | None:
    """Write token figures into the splits' reports; returns how they came about."""
    if revision is None:
        return None
    told = {"revision_id": str(revision.pk), "revision": str(revision)}
    try:
        with token_counts.tokenizer_folder(revision) as folder:
            for name, blob in blobs.items():
                splits[name] |= token_counts.count(folder, blob.sha256)
    except token_counts.CannotCount as error:
        return told | {"error": f"Tokens were not counted: {error}."}
    return told | {"method": token_counts.METHOD}


@transaction.atomic
def _add_version(
    dataset: Dataset,
    blobs: Mapping[str, Blob],
    report: dict[str, Any],
    *,
    actor: audit.Actor,
    now: datetime,
) -> DatasetVersion:
    Dataset.objects.select_for_update(no_key=True).get(pk=dataset.pk)
    last = DatasetVersion.objects.filter(dataset=dataset).order_by("-number").first()
    if last is not None and _same(last, blobs, report):
        return last
    version = DatasetVersion.objects.create(
        dataset=dataset, number=last.number + 1 if last else 1, report=report, created_at=now
    )
    DatasetSplit.objects.bulk_create(
        DatasetSplit(
            version=version,
            name=name,
            blob=blob,
            examples=report["splits"][name]["examples"],
            size_bytes=blob.size_bytes,
            token_count=report["splits"][name].get("token_count"),
            longest_tokens=report["splits"][name].get("longest_tokens"),
        )
        for name, blob in blobs.items()
    )
    audit.record(
        organization=dataset.organization,
        actor=actor,
        action="dataset.upload",
        object_id=version.pk,
        object_name=str(version),
        after={"examples": report["examples"], "splits": sorted(blobs)},
        now=now,
    )
    return version


def _same(last: DatasetVersion, blobs: Mapping[str, Blob], report: dict[str, Any]) -> bool:
    present = dict(DatasetSplit.objects.filter(version=last).values_list("name", "blob_id"))
    wanted = {name: blob.sha256 for name, blob in blobs.items()}
    return present == wanted and last.report.get("tokenizer") == report.get("tokenizer")
