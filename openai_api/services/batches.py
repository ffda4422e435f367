"""Batches: wanted, and no longer wanted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from accounts import audit
from accounts.models import ApiKey, Organization
from common import jobs
from common.errors import DomainError, InvalidInput, NotFound
from openai_api import names, selectors
from openai_api.choices import BATCH_OVER, BatchStatus, Endpoint, Purpose
from openai_api.models import Batch
from openai_api.services.jobs import check_metadata

WINDOW = re.compile(r"([1-9][0-9]{0,2})([hd])")
SHORTEST, LONGEST = timedelta(hours=1), timedelta(days=7)
MOST_OPEN = 100  # of an organization


class BatchIsOver(DomainError):
    code = "batch_is_over"


@dataclass(frozen=True, kw_only=True)
class WantedBatch:
    """A batch as a client describes it."""

    endpoint: str
    input_file: str
    completion_window: str = "24h"
    metadata: Mapping[str, str] | None = None


def create_batch(
    *,
    organization: Organization,
    wanted: WantedBatch,
    key: ApiKey,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Batch:
    """Want the lines of a file answered. They are checked soon after, all of them before the first
    is sent. Raises InvalidInput by field."""
    if wanted.endpoint not in Endpoint.values:
        raise InvalidInput(
            f"'endpoint' must be one of {', '.join(Endpoint.values)}.", field="endpoint"
        )
    window = _read_window(wanted.completion_window)
    try:
        file = selectors.get_file(
            organization, names.read_id(names.FILE, wanted.input_file), now=now
        )
    except NotFound as error:
        raise InvalidInput(
            f"There is no file {wanted.input_file}.",
            field="input_file_id",
            remedy="Upload it to /v1/files with the purpose 'batch'.",
        ) from error
    if file.purpose != Purpose.BATCH:
        raise InvalidInput(
            f"The file {wanted.input_file} has the purpose '{file.purpose}'.",
            field="input_file_id",
            remedy="Upload it with the purpose 'batch'.",
        )
    check_metadata(wanted.metadata)
    if selectors.list_batches(organization).exclude(status__in=BATCH_OVER).count() >= MOST_OPEN:
        raise DomainError(
            f"There are {MOST_OPEN} batches that are not over.", remedy="Wait, or cancel one."
        )
    with transaction.atomic():
        batch = Batch.objects.create(
            organization=organization,
            endpoint=wanted.endpoint,
            input_file=file,
            window_seconds=int(window.total_seconds()),
            metadata=dict(wanted.metadata) if wanted.metadata is not None else None,
            key=key,
            requested_by=actor.name[:150],
            status_changed_at=now,
            created_at=now,
            expires_at=now + window,
        )
        audit.record(
            organization=organization,
            actor=actor,
            action="batch.create",
            object_id=batch.pk,
            object_name=str(batch),
            after={"endpoint": wanted.endpoint, "file": wanted.input_file},
            now=now,
        )
        jobs.enqueue("openai_api.step_batch", batch_id=str(batch.pk))
    return batch


@transaction.atomic
def cancel_batch(
    *,
    organization: Organization,
    batch_id: UUID | None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Batch:
    """Send no more of its lines; those that are under way end, and what was answered is kept.
    Cancelling twice changes nothing. Raises NotFound, BatchIsOver."""
    found = selectors.get_batch(organization, batch_id)
    batch = Batch.objects.select_for_update(no_key=True).get(pk=found.pk)
    if batch.cancel_requested_at is not None:
        return batch
    if batch.status in BATCH_OVER or batch.status == BatchStatus.FINALIZING:
        raise BatchIsOver(f"The batch is {batch.status} already.")
    batch.cancel_requested_at = now
    batch.save(update_fields=["cancel_requested_at"])
    batch.transition(BatchStatus.CANCELLING, now=now, reason="cancelled")
    audit.record(
        organization=organization,
        actor=actor,
        action="batch.cancel",
        object_id=batch.pk,
        object_name=str(batch),
        now=now,
    )
    jobs.enqueue("openai_api.step_batch", batch_id=str(batch.pk))
    return batch


def _read_window(text: str) -> timedelta:
    found = WINDOW.fullmatch(text)
    window = timedelta()
    if found:
        window = timedelta(hours=int(found[1]) * (24 if found[2] == "d" else 1))
    if not SHORTEST <= window <= LONGEST:
        raise InvalidInput(
            "'completion_window' must be hours or days, from 1h to 7d, as in '24h'.",
            field="completion_window",
        )
    return window
