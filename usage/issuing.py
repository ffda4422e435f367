"""Statements that are issued: numbered, kept as they were, and never changed.

A month can be issued once all of its hours are sealed. What comes to light later counts in the hour
in which it did, and so stands on the statement of that month, as an adjustment of the earlier one.
"""

import hashlib
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
from django.db import transaction
from django.db.models import Max

from accounts import audit
from accounts.models import Organization
from common import locks
from common.errors import DomainError
from usage import periods, statements
from usage.cells import What
from usage.models import IssuedStatement
from usage.statements import Line, Part, Statement

AMOUNTS = {"quantity", "free_quantity", "unit_price", "amount"}


class NotSealed(DomainError):
    code = "month_not_sealed"


class Altered(DomainError):
    code = "statement_altered"


def issue(
    *,
    organization: Organization,
    month: str,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> IssuedStatement:
    """The issued statement of `month` (YYYY-MM); a month that was issued before stays as it was.

    Raises InvalidInput for what is no month, NotSealed.
    """
    start, end = periods.month(organization, month)
    found = statements.statement(organization=organization, start=start, end=end, now=now)
    body = _encode(found)
    with transaction.atomic():
        locks.lock_until_commit(f"usage.issue:{organization.pk}")
        rows = IssuedStatement.objects.of(organization)
        before = rows.filter(month=month).first()
        if before is not None:
            return before
        if not found.is_final:
            raise NotSealed(
                f"Not every hour of {month} is sealed yet.",
                field="month",
                remedy="Issue it a few hours after its end.",
            )
        last = rows.aggregate(last=Max("number"))["last"] or 0
        row = IssuedStatement.objects.create(
            organization=organization,
            number=last + 1,
            month=month,
            begins_at=start,
            ends_at=end,
            issued_at=now,
            currency=found.currency,
            total=found.total,
            body=body,
            digest=_digest(body),
        )
        audit.record(
            organization=organization,
            actor=actor,
            action="statement.issue",
            object_id=row.pk,
            object_name=row.name,
            after={"month": month, "total": str(row.total), "digest": row.digest},
            now=now,
        )
    return row


def of_month(*, organization: Organization, month: str, now: datetime) -> Statement:
    """The statement of a month: as it was issued, or else as it stands. Raises InvalidInput."""
    start, end = periods.month(organization, month)
    row = IssuedStatement.objects.of(organization).filter(month=month).first()
    if row is not None:
        return read(row)
    return statements.statement(organization=organization, start=start, end=end, now=now)


def read(row: IssuedStatement) -> Statement:
    """As it was issued. Raises Altered where the row is not what was issued."""
    if _digest(row.body) != row.digest:
        raise Altered(
            f"Statement {row.name} is not what was issued.",
            remedy="Restore the row from a backup; its digest is in the audit log.",
        )
    body = row.body
    lines = [Line(**(_decimals(each) | {"what": What(**each["what"])})) for each in body["lines"]]
    parts = {by: [Part(**_decimals(each)) for each in found] for by, found in body["parts"].items()}
    return Statement(
        organization=row.organization,
        start=row.begins_at,
        end=row.ends_at,
        currency=row.currency,
        lines=lines,
        parts=parts,
        internal_keys=frozenset(body["internal_keys"]),
        totals={currency: Decimal(total) for currency, total in body["totals"].items()},
        is_final=True,
        number=row.name,
        issued_at=row.issued_at,
    )


def _encode(found: Statement) -> dict[str, Any]:
    return {
        "lines": [_texts(asdict(line)) for line in found.lines],
        "parts": {
            by: [_texts(asdict(part)) for part in parts] for by, parts in found.parts.items()
        },
        "internal_keys": sorted(found.internal_keys),
        "totals": {currency: str(total) for currency, total in found.totals.items()},
    }


def _texts(values: dict[str, Any]) -> dict[str, Any]:
    """Decimals as texts: JSON's numbers would lose digits."""
    return {
        name: str(value) if isinstance(value, Decimal) else value for name, value in values.items()
    }


def _decimals(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: Decimal(value) if name in AMOUNTS and value is not None else value
        for name, value in values.items()
    }


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
