"""One step of a batch at a time, under a lease."""

from datetime import datetime, timedelta
from uuid import UUID

from common import leases
from common.errors import DomainError
from deployments.models import Route
from models_registry.models import Blob
from models_registry.storage import BlobMissing
from openai_api import selectors
from openai_api.batching import reading, sending, writing
from openai_api.choices import BatchStatus, Purpose
from openai_api.models import Batch, BatchLine, File
from openai_api.services.files import open_file

B = BatchStatus
LEASE_SECONDS = 30.0
ROWS = 1000


def step_batch(batch_id: UUID, *, now: datetime) -> bool:
    """One step of a batch that is not over; true if another should follow at once."""
    rows = selectors.list_open_batches().select_related("organization", "input_file", "key")
    batch = leases.take(rows, batch_id, now=now, seconds=LEASE_SECONDS)
    if batch is None:
        return False
    with leases.kept(batch, seconds=LEASE_SECONDS):
        if batch.status == B.CANCELLING:
            return _end(batch, B.CANCELLED, "batch_cancelled", now=now)
        if batch.status == B.VALIDATING:
            return _check(batch, now=now)
        if batch.status == B.FINALIZING:
            is_late = batch.status_reason == "expired"
            return _end(batch, B.EXPIRED if is_late else B.COMPLETED, "batch_expired", now=now)
        if batch.expires_at <= now:
            return _finalize(batch, "expired", now=now)
        if sending.send_lines(batch):
            leases.release(batch)
            return True
        return _finalize(batch, "answered", now=now)


def _check(batch: Batch, *, now: datetime) -> bool:
    """Read all lines. Not one is sent unless all of them are right."""
    try:
        with open_file(batch.input_file) as file:
            lines, errors = reading.read_lines(
                file, endpoint=batch.endpoint, why_not=_why_not(batch)
            )
    except (DomainError, BlobMissing) as error:
        lines, errors = [], [reading.LineError("file_missing", str(error))]
    with leases.finish(batch) as current:
        if current.status != B.VALIDATING:  # cancelled meanwhile
            return True
        if errors:
            current.errors = [error.as_body() for error in errors]
            current.ended_at = now
            current.save(update_fields=["errors", "ended_at"])
            current.transition(B.FAILED, now=now, reason=errors[0].code, message=errors[0].message)
            return False
        BatchLine.objects.bulk_create(
            [
                BatchLine(
                    batch=current,
                    number=line.number,
                    custom_id=line.custom_id,
                    model_name=line.model_name,
                    offset_bytes=line.offset_bytes,
                    size_bytes=line.size_bytes,
                )
                for line in lines
            ],
            batch_size=ROWS,
        )
        current.lines_total = len(lines)
        current.in_progress_at = now
        current.save(update_fields=["lines_total", "in_progress_at"])
        current.transition(B.IN_PROGRESS, now=now, reason="checked")
    return True


class _why_not:  # noqa: N801 - it is called like the function that it is
    """Why the batch may not ask a model; empty if it may."""

    def __init__(self, batch: Batch) -> None:
        names = Route.objects.of(batch.organization).values_list("name", flat=True)
        self._names = set(names)
        self._allowed = set(batch.key.allowed_models)

    def __call__(self, model: str) -> str:
        if model not in self._names:
            return f"The model {model!r} does not exist."
        if self._allowed and model not in self._allowed:
            return f"The API key may not use the model {model!r}."
        return ""


def _finalize(batch: Batch, reason: str, *, now: datetime) -> bool:
    with leases.finish(batch) as current:
        if current.status == B.IN_PROGRESS:
            current.finalizing_at = now
            current.save(update_fields=["finalizing_at"])
            current.transition(B.FINALIZING, now=now, reason=reason)
    return True


def _end(batch: Batch, status: str, left_code: str, *, now: datetime) -> bool:
    """Write the files, then let the lines go."""
    output, errors = writing.write_files(batch, left_code=left_code, now=now)
    with leases.finish(batch) as current:
        left = current.lines.filter(status_code__isnull=True).count()
        current.output_file = _file(current, output, "output", now=now)
        current.error_file = _file(current, errors, "error", now=now)
        current.lines_failed += left
        current.ended_at = now
        current.save(update_fields=["output_file", "error_file", "lines_failed", "ended_at"])
        current.transition(status, now=now, reason=batch.status_reason)
        current.lines.all().delete()
    return False


def _file(batch: Batch, blob: Blob | None, kind: str, *, now: datetime) -> File | None:
    if blob is None:
        return None
    return File.objects.create(
        organization=batch.organization,
        filename=f"{batch}_{kind}.jsonl",
        purpose=Purpose.BATCH_OUTPUT,
        blob=blob,
        size_bytes=blob.size_bytes,
        created_at=now,
        expires_at=now + timedelta(days=30),
    )
