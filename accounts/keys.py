"""Keys that exist: changed in what they may do, and given a new secret."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts import audit
from accounts.choices import Scope
from accounts.models import ApiKey, Organization
from accounts.networks import parse_networks
from accounts.services import (
    KEYS,
    IssuedKey,
    check_expiry,
    check_scopes,
    hash_secret,
    make_secret,
)
from common import notices
from common.errors import DomainError, InvalidInput, NotAllowed, NotFound

OVERLAP = timedelta(hours=24)
LONGEST_OVERLAP = timedelta(days=30)
CHANGEABLE = ("name", "scopes", "allowed_models", "allowed_networks", "expires_at")


class KeyNotLive(DomainError):
    code = "key_not_live"


class PreviousSecretLives(DomainError):
    code = "previous_secret_lives"


@transaction.atomic
def change_api_key(
    *,
    organization: Organization,
    key_id: UUID,
    changes: dict[str, Any],
    may_operate: bool = False,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> ApiKey:
    """Change some of `CHANGEABLE`; gateways hear of it at once.

    Raises NotFound, KeyNotLive for a key that was revoked, NotAllowed, InvalidInput.
    """
    row = _lock(organization, key_id)
    if row.revoked_at is not None:
        raise KeyNotLive("The key was revoked.", remedy="Make a new one.")
    _check_operator(row, may_operate=may_operate)
    wanted = dict(changes)
    if "scopes" in wanted:
        wanted["scopes"] = check_scopes(wanted["scopes"], may_operate=may_operate)
    if "name" in wanted:
        wanted["name"] = wanted["name"].strip()[:80]
        if not wanted["name"]:
            raise InvalidInput("A key needs a name.", field="name", remedy="Say what it is for.")
    if "allowed_networks" in wanted:
        wanted["allowed_networks"] = parse_networks(wanted["allowed_networks"])
    if wanted.get("expires_at", row.expires_at) != row.expires_at:
        check_expiry(wanted["expires_at"], now=now)
    changed = {name: wanted[name] for name in wanted if wanted[name] != getattr(row, name)}
    if not changed:
        return row
    before = {name: getattr(row, name) for name in changed}
    for name, value in changed.items():
        setattr(row, name, value)
    row.save(update_fields=list(changed))
    notices.publish(KEYS)
    _record("change", row, before=_plain(before), after=_plain(changed), actor=actor, now=now)
    return row


@transaction.atomic
def rotate_api_key(
    *,
    organization: Organization,
    key_id: UUID,
    overlap: timedelta = OVERLAP,
    may_operate: bool = False,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> IssuedKey:
    """Give a live key a new secret; the present one works for `overlap` longer, zero ends it now.

    The key keeps its id, and with it usage, limits and rights. One that expires has its whole
    lifetime again. Raises NotFound, KeyNotLive, NotAllowed, InvalidInput, and PreviousSecretLives
    while an earlier rotation's overlap runs (not for an overlap of zero, which ends both).
    """
    row = _lock(organization, key_id)
    if not row.is_live(now=now):
        raise KeyNotLive("The key was revoked or has expired.", remedy="Make a new one.")
    _check_operator(row, may_operate=may_operate)
    if not timedelta() <= overlap <= LONGEST_OVERLAP:
        raise InvalidInput(
            f"An overlap is between 0 and {LONGEST_OVERLAP.days} days.",
            field="overlap_seconds",
            remedy="Choose as long as it takes to bring the new secret to every program.",
        )
    if overlap and row.has_previous(now=now):
        raise PreviousSecretLives(
            f"The secret before the present one works until {row.previous_expires_at:%Y-%m-%d %H:%M} UTC.",
            field="overlap_seconds",
            remedy="End it first, or rotate with an overlap of 0, which ends both.",
        )
    prefix, secret = make_secret()
    lifetime = row.expires_at and row.expires_at - (row.rotated_at or row.created_at)
    row.previous_prefix, row.previous_secret_hash = row.prefix, row.secret_hash
    row.previous_expires_at = min(now + overlap, row.expires_at or now + overlap)
    row.prefix, row.secret_hash = prefix, hash_secret(secret)
    row.rotated_at = now
    row.expires_at = now + lifetime if lifetime else None
    row.save()
    notices.publish(KEYS)
    after = {"prefix": prefix, "previous_expires_at": row.previous_expires_at}
    before = {"prefix": row.previous_prefix}
    _record("rotate", row, before=before, after=_plain(after), actor=actor, now=now)
    return IssuedKey(row=row, secret=secret)


@transaction.atomic
def end_previous_secret(
    *,
    organization: Organization,
    key_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> ApiKey:
    """End a rotation's overlap now. Where none runs, nothing changes. Raises NotFound."""
    row = _lock(organization, key_id)
    if row.has_previous(now=now):
        row.previous_expires_at = now
        row.save(update_fields=["previous_expires_at"])
        notices.publish(KEYS)
        ended = {"previous_prefix": row.previous_prefix}
        _record("end_previous", row, before=ended, after={}, actor=actor, now=now)
    return row


def _lock(organization: Organization, key_id: UUID) -> ApiKey:
    rows = ApiKey.objects.of(organization).filter(is_internal=False)
    row = rows.select_for_update(no_key=True).filter(pk=key_id).first()
    if row is None:
        raise NotFound("No such key.")
    return row


def _check_operator(row: ApiKey, *, may_operate: bool) -> None:
    """Whoever gets a key's new secret, or widens it, can do what the key can."""
    if Scope.OPERATE in row.scopes and not may_operate:
        raise NotAllowed("Only platform staff may change keys that operate.", field="scopes")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def _record(
    verb: str,
    row: ApiKey,
    *,
    before: dict[str, Any],
    after: dict[str, Any],
    actor: audit.Actor,
    now: datetime,
) -> None:
    audit.record(
        organization=row.organization,
        actor=actor,
        action=f"api_key.{verb}",
        object_id=row.pk,
        object_name=row.name,
        before=before,
        after=after,
        now=now,
    )
