"""The audit log: one row a change, chained by hash, verifiable by `manage.py verify_audit`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from accounts.models import AuditEvent, Organization
from common import locks

CHAIN = "accounts.audit"
COVERED = (
    "at",
    "actor_kind",
    "actor_name",
    "action",
    "object_id",
    "object_name",
    "before",
    "after",
    "address",
)


@dataclass(frozen=True)
class Actor:
    """Who does something: a user, a key, the platform itself or a command."""

    kind: str
    name: str
    address: str = ""


SYSTEM = Actor(kind="system", name="platform")


@transaction.atomic
def record(
    *,
    organization: Organization | None,
    actor: Actor,
    action: str,
    object_id: object = "",
    object_name: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    now: datetime,
) -> AuditEvent:
    """Add one event to the chain, in the caller's transaction. Never pass secrets."""
    locks.lock_until_commit(CHAIN)
    last = AuditEvent.objects.order_by("-sequence").first()
    event = AuditEvent(
        organization=organization,
        at=now,
        actor_kind=actor.kind,
        actor_name=actor.name[:150],
        action=action,
        object_id=str(object_id),
        object_name=object_name[:200],
        before=dict(before or {}),
        after=dict(after or {}),
        address=actor.address,
        previous_hash=last.hash if last else "",
    )
    event.hash = digest(event)
    event.save()
    return event


def digest(event: AuditEvent) -> str:
    """SHA-256 over the event's content and the hash of the one before it."""
    content = {name: getattr(event, name) for name in COVERED}
    content["at"] = event.at.isoformat()
    content["organization"] = str(event.organization_id or "")
    content["previous_hash"] = event.previous_hash
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def first_broken() -> int | None:
    """The sequence number of the first event that does not fit its chain, or None."""
    previous = ""
    for event in AuditEvent.objects.order_by("sequence").iterator(chunk_size=2000):
        if event.previous_hash != previous or event.hash != digest(event):
            return event.sequence
        previous = event.hash
    return None
