"""Files: kept as they came, whatever they are for; who uses one checks what is in it."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import BinaryIO
from uuid import UUID

from django.conf import settings
from django.db import transaction

from accounts import audit
from accounts.models import Organization
from common.errors import InvalidInput
from models_registry import storage
from openai_api import names, selectors
from openai_api.choices import UPLOADED, Purpose
from openai_api.models import File

CHUNK_BYTES = 2**20
LONGEST_LINE_BYTES = 16 * 2**20  # the first one is read whole, to tell lines of JSON from all else
EXPIRES_SECONDS = (3600, 30 * 86_400)
LINES = {Purpose.FINE_TUNE, Purpose.BATCH}  # purposes whose files are lines of JSON


def create_file(
    *,
    organization: Organization,
    filename: str,
    purpose: str,
    content: BinaryIO,
    expires_after_seconds: int | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> File:
    """Keep a seekable file's content, in constant memory. Raises InvalidInput: an unknown purpose,
    an empty or too large file, or one that does not begin with a line of JSON where those are
    wanted. The other lines are read by whoever uses it: a job, with every error by line."""
    if purpose not in UPLOADED:
        raise InvalidInput(
            f"'{purpose}' is not one of {', '.join(repr(str(each)) for each in UPLOADED)}.",
            field="purpose",
        )
    low, high = EXPIRES_SECONDS
    if expires_after_seconds is not None and not low <= expires_after_seconds <= high:
        raise InvalidInput(
            f"A file may expire after {low:,} to {high:,} seconds.", field="expires_after.seconds"
        )
    size = content.seek(0, 2)
    limit = settings.FACTORY_MAX_UPLOAD_BYTES
    if not 0 < size <= limit:
        raise InvalidInput(
            f"The file has {size:,} bytes; it may have 1 to {limit:,}.", field="file"
        )
    content.seek(0)
    if purpose in LINES:
        _check_first_line(content)
        content.seek(0)
    blob = storage.put_chunks(_chunks(content), now=now)
    with transaction.atomic():
        row = File.objects.create(
            organization=organization,
            filename=_tidy(filename),
            purpose=purpose,
            blob=blob,
            size_bytes=size,
            created_at=now,
            expires_at=now + timedelta(seconds=expires_after_seconds)
            if expires_after_seconds is not None
            else None,
        )
        audit.record(
            organization=organization,
            actor=actor,
            action="file.create",
            object_id=row.pk,
            object_name=row.filename,
            after={"purpose": purpose, "bytes": size, "sha256": blob.sha256},
            now=now,
        )
    return row


def store_result(
    *,
    organization: Organization,
    filename: str,
    content: Iterable[bytes],
    purpose: str = Purpose.RESULTS,
    now: datetime,
) -> File:
    """A file of the platform's own making, for the organization to download."""
    blob = storage.put_chunks(content, now=now)
    return File.objects.create(
        organization=organization,
        filename=filename,
        purpose=purpose,
        blob=blob,
        size_bytes=blob.size_bytes,
        created_at=now,
    )


@transaction.atomic
def delete_file(
    *,
    organization: Organization,
    file_id: UUID | None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> File:
    """Forget a file. What was made of it stays: the dataset that a job trained on. Raises
    NotFound."""
    row = selectors.get_file(organization, file_id, now=now)
    row.deleted_at, row.blob = now, None
    row.save(update_fields=["deleted_at", "blob"])
    audit.record(
        organization=organization,
        actor=actor,
        action="file.delete",
        object_id=row.pk,
        object_name=row.filename,
        now=now,
    )
    return row


def expire_files(*, now: datetime) -> int:
    """Give up the content of files whose time is over; returns how many."""
    rows = File.objects.filter(expires_at__lte=now, deleted_at__isnull=True)
    return rows.update(deleted_at=now, blob=None)


def open_file(file: File) -> BinaryIO:
    """Its content. Raises InvalidInput where it was deleted, BlobMissing."""
    if file.blob_id is None:
        raise InvalidInput(
            f"The file {names.public_id(names.FILE, file.pk)} was deleted.", field="file_id"
        )
    return storage.open_blob(file.blob_id)


def _check_first_line(content: BinaryIO) -> None:
    line = b""
    while not line.strip():
        line = content.readline(LONGEST_LINE_BYTES)
        if not line:
            raise InvalidInput("There is not one line in the file.", field="file")
    try:
        is_object = isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise InvalidInput(
            "Expected file to have JSONL format, where every line is a valid JSON dictionary: "
            "the first line is not.",
            field="file",
            remedy="Write one JSON object a line, in UTF-8.",
        )


def _chunks(content: BinaryIO) -> Iterator[bytes]:
    while chunk := content.read(CHUNK_BYTES):
        yield chunk


def _tidy(filename: str) -> str:
    name = "".join(each for each in filename if each.isprintable()).replace("\\", "/")
    return name.rpartition("/")[2][:255] or "file"
