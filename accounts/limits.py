"""Limits: rows that gateways follow within a second, and the alerts before one is used up."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.mail import send_mail
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from accounts import audit
from accounts.choices import LimitKind, Role
from accounts.models import ApiKey, Limit, LimitAlert, Membership, Organization
from common import notices
from common.errors import DomainError, InvalidInput, NotFound

logger = logging.getLogger(__name__)

LIMITS = "limits"  # the channel on which gateways hear that limits are not what they were
MOST_LIMITS = 1000  # of an organization
MOST = Decimal(10**11)
CHANGEABLE = {"amount", "warn_percent"}


class LimitExists(DomainError):
    code = "limit_exists"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A limit as somebody asks for it. `key_id` None: all keys; `model_name` empty: all models."""

    kind: str
    amount: Decimal
    key_id: UUID | None = None
    model_name: str = ""
    warn_percent: int | None = 80


def tell() -> None:
    """Let gateways look again."""
    notices.publish(LIMITS)


def list_limits(organization: Organization) -> QuerySet[Limit]:
    return Limit.objects.of(organization).select_related("key", "organization")


def get_limit(organization: Organization, limit_id: UUID) -> Limit:
    row = list_limits(organization).filter(pk=limit_id).first()
    if row is None:
        raise NotFound("No such limit.")
    return row


@transaction.atomic
def create_limit(
    *, organization: Organization, wanted: Wanted, actor: audit.Actor = audit.SYSTEM, now: datetime
) -> Limit:
    """A new limit. What was used before counts: a month's limit is of the whole present month.

    Raises InvalidInput, NotFound for a key, LimitExists where there is one for the same.
    """
    _check_amount(wanted.kind, wanted.amount)
    _check_warning(wanted.warn_percent)
    key = None
    if wanted.key_id is not None:
        keys = ApiKey.objects.of(organization).filter(is_internal=False)
        key = keys.filter(pk=wanted.key_id).first()
        if key is None:
            raise NotFound("No such key.", field="key")
    if Limit.objects.of(organization).count() >= MOST_LIMITS:
        raise InvalidInput(
            f"An organization has at most {MOST_LIMITS} limits.", remedy="Remove some first."
        )
    row = Limit(
        organization=organization,
        key=key,
        model_name=wanted.model_name.strip()[:200],
        kind=wanted.kind,
        amount=wanted.amount,
        warn_percent=wanted.warn_percent,
        created_at=now,
        updated_at=now,
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        raise LimitExists(
            "There is such a limit for the same key and model.",
            field="kind",
            remedy="Change its amount.",
        ) from error
    _record(row, "limit.create", actor=actor, before={}, after=_values(row), now=now)
    tell()
    return row


@transaction.atomic
def change_limit(
    *,
    organization: Organization,
    limit_id: UUID,
    changes: dict[str, Any],
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Limit:
    """A new amount or warning. What was used in the present period stays counted. Raises
    InvalidInput, NotFound."""
    row = Limit.objects.of(organization).select_for_update().filter(pk=limit_id).first()
    if row is None:
        raise NotFound("No such limit.")
    unknown = set(changes) - CHANGEABLE
    if unknown:
        raise InvalidInput(
            "Only amount and warning of a limit change.",
            field=min(unknown),
            remedy="Remove it and make another.",
        )
    before = _values(row)
    for name, value in changes.items():
        setattr(row, name, value)
    _check_amount(row.kind, row.amount)
    _check_warning(row.warn_percent)
    row.updated_at = now
    row.save(update_fields=[*changes, "updated_at"])
    _record(row, "limit.change", actor=actor, before=before, after=_values(row), now=now)
    tell()
    return row


@transaction.atomic
def delete_limit(
    *,
    organization: Organization,
    limit_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> None:
    """Remove a limit. Raises NotFound."""
    row = get_limit(organization, limit_id)
    _record(row, "limit.delete", actor=actor, before=_values(row), after={}, now=now)
    row.delete()
    tell()


def warn(*, limit_id: UUID, percent: int, period_start: float, now: datetime) -> LimitAlert | None:
    """Tell owners and admins that so much of a limit is used; once for each period and percentage,
    however often it is called. Mail that cannot be sent is logged: the alert stands in the console.

    `period_start`: seconds since 1970. Returns the alert, None if it was told before or the limit
    is gone.
    """
    row = Limit.objects.select_related("organization", "key").filter(pk=limit_id).first()
    if row is None:
        return None
    alert, is_new = LimitAlert.objects.get_or_create(
        limit_id=row.pk,
        period_start=datetime.fromtimestamp(period_start, UTC),
        percent=percent,
        defaults={
            "organization": row.organization,
            "kind": row.kind,
            "key_name": row.key.name if row.key else "",
            "model_name": row.model_name,
            "amount": row.amount,
            "at": now,
        },
    )
    if not is_new:
        return None
    _mail(alert)
    return alert


def _mail(alert: LimitAlert) -> None:
    members = Membership.objects.filter(
        organization=alert.organization, role__in=[Role.OWNER, Role.ADMIN]
    )
    addresses = members.exclude(user__email="").values_list("user__email", flat=True)
    label = LimitKind(alert.kind).label
    of_what = ", ".join(filter(None, (alert.key_name, alert.model_name))) or "all keys and models"
    lines = [
        f"{alert.organization.name}: {alert.percent} % of a limit is used.",
        f"{label}: {alert.amount.normalize():f} ({of_what}).",
        "Requests that find no room in it are refused until it begins anew.",
    ]
    for address in addresses:
        try:
            send_mail(
                f"{alert.organization.slug}: {alert.percent} % of {label} used",
                "\n".join(lines),
                None,
                [address],
            )
        except OSError as error:  # smtplib's errors are OSErrors
            logger.warning("no mail about limit %s: %s", alert.limit_id, error)


def _check_amount(kind: str, amount: Decimal) -> None:
    if kind not in LimitKind.values:
        raise InvalidInput(
            f"{kind} cannot be limited.",
            field="kind",
            remedy=f"Use one of {', '.join(LimitKind.values)}.",
        )
    if not amount.is_finite() or not 0 <= amount <= MOST:
        raise InvalidInput(
            "No amount to limit by.", field="amount", remedy=f"Give a number from 0 to {MOST}."
        )
    if LimitKind(kind).measure == "money":
        if amount > MOST / 1000:
            raise InvalidInput(
                "So much money is no limit.", field="amount", remedy=f"At most {MOST / 1000:f}."
            )
    elif amount != amount.to_integral_value():
        raise InvalidInput(
            "Requests and tokens are whole.", field="amount", remedy="Give a whole number."
        )


def _check_warning(percent: int | None) -> None:
    if percent is not None and not 1 <= percent <= 100:
        raise InvalidInput(
            "A warning is a percentage.",
            field="warn_percent",
            remedy="Give a number from 1 to 100, or null.",
        )


def _values(row: Limit) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "amount": f"{row.amount.normalize():f}",
        "key_name": row.key.name if row.key else "",
        "model_name": row.model_name,
        "warn_percent": row.warn_percent,
    }


def _record(
    row: Limit,
    action: str,
    *,
    actor: audit.Actor,
    before: dict[str, Any],
    after: dict[str, Any],
    now: datetime,
) -> None:
    audit.record(
        organization=row.organization,
        actor=actor,
        action=action,
        object_id=row.pk,
        object_name=row.kind,
        before=before,
        after=after,
        now=now,
    )
