"""Organizations, members and keys."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from accounts import audit
from accounts.choices import Role, Scope
from accounts.models import ApiKey, Membership, Organization, User
from accounts.networks import parse_networks
from common import locks, notices
from common.errors import DomainError, InvalidInput, NotFound

KEY_START = "sk-af-"
KEYS = "keys"  # the channel on which gateways hear that keys are not what they were


class NameTaken(DomainError):
    code = "name_taken"


class LastOwner(DomainError):
    code = "last_owner"


@dataclass(frozen=True)
class IssuedKey:
    """A new key; `secret` is shown once and kept nowhere."""

    row: ApiKey
    secret: str


def create_organization(
    *,
    slug: str,
    name: str,
    actor: audit.Actor = audit.SYSTEM,
    time_zone: str = "UTC",
    currency: str = "USD",
    now: datetime,
) -> Organization:
    """A new tenant. Raises InvalidInput for a bad slug or time zone, NameTaken for a known slug."""
    organization = Organization(
        slug=slug, name=name, time_zone=time_zone, currency=currency, created_at=now
    )
    try:
        organization.clean_fields()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(messages[0], field=field) from error
    try:
        with transaction.atomic():
            organization.save(force_insert=True)
            audit.record(
                organization=organization,
                actor=actor,
                action="organization.create",
                object_id=organization.pk,
                object_name=slug,
                after={"name": name},
                now=now,
            )
    except IntegrityError as error:
        raise NameTaken(f"An organization named {slug} exists.", field="slug") from error
    return organization


@transaction.atomic
def set_member(
    *,
    organization: Organization,
    user: User,
    role: str,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Membership:
    """Make the user a member, or change the role of one. Raises LastOwner."""
    if role not in Role.values:
        raise InvalidInput(
            f"{role} is no role.", field="role", remedy=f"Use one of {', '.join(Role.values)}."
        )
    present = _lock_members(organization).filter(user=user).first()
    if present is None:
        membership = Membership.objects.create(
            organization=organization, user=user, role=role, created_at=now
        )
    else:
        if role != Role.OWNER:
            _keep_an_owner(present)
        membership = present
        before, membership.role = present.role, role
        membership.save(update_fields=["role"])
    audit.record(
        organization=organization,
        actor=actor,
        action="member.set",
        object_id=user.pk,
        object_name=user.get_username(),
        before={} if present is None else {"role": before},
        after={"role": role},
        now=now,
    )
    return membership


@transaction.atomic
def remove_member(
    *, organization: Organization, user: User, actor: audit.Actor = audit.SYSTEM, now: datetime
) -> None:
    """End a membership. Raises NotFound, LastOwner."""
    present = _lock_members(organization).filter(user=user).first()
    if present is None:
        raise NotFound(f"{user} is not a member.")
    _keep_an_owner(present)
    present.delete()
    audit.record(
        organization=organization,
        actor=actor,
        action="member.remove",
        object_id=user.pk,
        object_name=user.get_username(),
        before={"role": present.role},
        now=now,
    )


def _lock_members(organization: Organization) -> QuerySet[Membership]:
    """The members, which nobody else changes until the present transaction ends: two who leave at
    once cannot both be the one owner that is left."""
    locks.lock_until_commit(f"accounts.members.{organization.pk}")
    return Membership.objects.of(organization)


def _keep_an_owner(membership: Membership) -> None:
    if membership.role != Role.OWNER:
        return
    if Membership.objects.of(membership.organization).filter(role=Role.OWNER).count() == 1:
        raise LastOwner(
            f"{membership.user} is the only owner.", remedy="Make another member owner first."
        )


@transaction.atomic
def issue_api_key(
    *,
    organization: Organization,
    name: str,
    scopes: Iterable[str],
    created_by: User | None = None,
    expires_at: datetime | None = None,
    allowed_models: Iterable[str] = (),
    allowed_networks: Iterable[str] = (),
    is_internal: bool = False,
    may_operate: bool = False,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> IssuedKey:
    """A new key of the organization. Raises InvalidInput.

    `may_operate` says that the caller is platform staff and may hand out the scope `operate`.
    """
    wanted = check_scopes(scopes, may_operate=may_operate)
    if not name.strip():
        raise InvalidInput("A key needs a name.", field="name", remedy="Say what it is for.")
    check_expiry(expires_at, now=now)
    prefix, secret = make_secret()
    row = ApiKey.objects.create(
        organization=organization,
        name=name.strip()[:80],
        prefix=prefix,
        secret_hash=hash_secret(secret),
        scopes=wanted,
        allowed_models=list(allowed_models),
        allowed_networks=parse_networks(allowed_networks),
        is_internal=is_internal,
        created_by=created_by,
        created_at=now,
        expires_at=expires_at,
    )
    if not is_internal:
        audit.record(
            organization=organization,
            actor=actor,
            action="api_key.issue",
            object_id=row.pk,
            object_name=row.name,
            after={"prefix": prefix, "scopes": wanted},
            now=now,
        )
    return IssuedKey(row=row, secret=secret)


def check_scopes(scopes: Iterable[str], *, may_operate: bool) -> list[str]:
    """The scopes, each once and sorted. Raises InvalidInput."""
    wanted = sorted(set(scopes))
    unknown = [scope for scope in wanted if scope not in Scope.values]
    if unknown or not wanted:
        raise InvalidInput(
            f"Unknown scope {unknown[0]}." if unknown else "A key needs at least one scope.",
            field="scopes",
            remedy=f"Choose from {', '.join(Scope.values)}.",
        )
    if Scope.OPERATE in wanted and not may_operate:
        raise InvalidInput("Only platform staff may make keys that operate.", field="scopes")
    return wanted


def check_expiry(expires_at: datetime | None, *, now: datetime) -> None:
    """Raises InvalidInput for a time that has passed."""
    if expires_at is not None and expires_at <= now:
        raise InvalidInput("The key would have expired already.", field="expires_at")


def make_secret() -> tuple[str, str]:
    """A new secret and, before it, the prefix by which it is found."""
    prefix = KEY_START + secrets.token_hex(5)
    return prefix, f"{prefix}-{secrets.token_urlsafe(32)}"


@transaction.atomic
def revoke_api_key(
    *,
    organization: Organization,
    key_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> ApiKey:
    """End a key now. Revoking twice changes nothing. Raises NotFound."""
    rows = ApiKey.objects.of(organization).select_for_update(no_key=True)
    row = rows.filter(pk=key_id).first()
    if row is None:
        raise NotFound("No such key.")
    if row.revoked_at is None:
        row.revoked_at = now
        row.save(update_fields=["revoked_at"])
        notices.publish(KEYS)
        if not row.is_internal:
            audit.record(
                organization=organization,
                actor=actor,
                action="api_key.revoke",
                object_id=row.pk,
                object_name=row.name,
                now=now,
            )
    return row


def prefix_of(secret: str) -> str:
    """The part of a key by which its row is found; empty if it is not one of ours."""
    start, dash, _rest = secret[len(KEY_START) :].partition("-")
    return KEY_START + start if secret.startswith(KEY_START) and dash else ""


def hash_secret(secret: str) -> bytes:
    """HMAC-SHA256 under the platform's key: useless to whoever steals the table alone."""
    return hmac.digest(f"api-key:{settings.SECRET_KEY}".encode(), secret.encode(), hashlib.sha256)


def authenticate_api_key(secret: str, *, now: datetime) -> ApiKey | None:
    """The live key with this secret, or None. Compares in constant time."""
    prefix = prefix_of(secret)
    if not prefix:
        return None
    rows = ApiKey.objects.select_related("organization")
    row = rows.filter(Q(prefix=prefix) | Q(previous_prefix=prefix)).first()
    # An unknown prefix is compared as well, so that it takes no less time than a known one.
    known = [each for each in row.secrets if each.prefix == prefix] if row is not None else []
    expected = known[0].hash if known else bytes(32)
    is_same = hmac.compare_digest(expected, hash_secret(secret))
    if row is None or not known or not is_same:
        return None
    if not row.is_live(now=now) or row.organization.suspended_at is not None:
        return None
    ends = known[0].expires_at
    return row if ends is None or now < ends else None
