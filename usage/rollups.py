"""Hourly records, computed from rows that only grow, and sealed two hours after their hour's end.

An open hour is computed anew as often as wanted. A sealed one is never written again: computing it
again gives the same (`list_differences` proves it), and an event that comes too late for it counts
in the hour that is open then, in a record that names the sealed one.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from accounts.models import Organization
from chips.models import Allocation
from training.models import TrainingRun
from usage import holdings, sealing, sums
from usage.models import Seal, UsageEvent, UsageRecord
from usage.sealing import HOUR, hour_of
from usage.sums import Key, Sums

RECENT = timedelta(days=2)
STEP = timedelta(days=1)  # computed in one transaction
ROWS = 1000  # of one statement


@dataclass(frozen=True, slots=True)
class Difference:
    """A record that computing it again does not give."""

    key: Key
    kept: Decimal
    computed: Decimal


def roll_up_open(
    *, organization: Organization, now: datetime, complete_until: datetime | None = None
) -> None:
    """Compute all hours that are not sealed, and seal those whose time has come.

    `complete_until`: events told after it may still be on their way, so that nothing is sealed that
    would not have been sealed then.
    """
    holdings.observe(organization=organization, now=now)
    start = sealing.sealed_until(organization.pk) or sums.first_hour(organization)
    end = hour_of(now) + HOUR
    while start is not None and start < end:
        step_end = min(start + STEP, end)
        roll_up(
            organization=organization,
            start=start,
            end=step_end,
            now=now,
            complete_until=complete_until,
        )
        start = step_end


@transaction.atomic
def roll_up(
    *,
    organization: Organization,
    start: datetime,
    end: datetime,
    now: datetime,
    complete_until: datetime | None = None,
) -> None:
    """Compute the open ones of the hours from `start` until before `end`, both full hours.

    Writes only what has changed, and seals what is old if all before it is sealed.
    """
    sealing.lock(organization.pk)
    sealed = sealing.sealed_until(organization.pk)
    begin = sealed or sums.first_hour(organization)
    if begin is None:
        return
    start = max(start, begin)
    due = sealing.due_until(min(now, complete_until or now))
    until = max(begin, min(due, end)) if start == begin else begin
    _write(organization, start=start, end=end, seal_until=until, now=now)
    if until > begin:
        sealing.seal(organization.pk, until=until)


def list_differences(
    *, organization: Organization, start: datetime, end: datetime, now: datetime
) -> list[Difference]:
    """Sealed records of those hours that are not what computing them again gives."""
    sealed = sealing.sealed_until(organization.pk)
    end = min(end, sealed) if sealed else start
    found = []
    while start < end:
        step_end = min(start + STEP, end)
        again = sums.compute(organization, start=start, end=step_end, now=now).quantities
        kept = {key_of(row): row.quantity for row in _records(organization, start, step_end)}
        for key in sorted(again.keys() | kept.keys(), key=str):
            was, now_is = kept.get(key, Decimal(0)), again.get(key, Decimal(0))
            if was != now_is:
                found.append(Difference(key, was, now_is))
        start = step_end
    return found


def list_active_organizations(*, now: datetime) -> list[Organization]:
    """Those that may have something to roll up: recent events, held accelerators, open hours, or
    hours without use that nobody sealed yet."""
    since, own = now - RECENT, OuterRef("pk")
    held = Q(released_at__isnull=True) | Q(released_at__gte=since)
    active = (
        Exists(UsageEvent.objects.filter(organization=own, at__gte=since))
        | Exists(UsageRecord.objects.filter(organization=own, sealed_at__isnull=True))
        | Exists(Seal.objects.filter(organization=own, sealed_until__lt=now - STEP))
        | Exists(Allocation.objects.filter(held, organization=own))
        | Exists(TrainingRun.objects.filter(organization=own, ended_at__gte=since))
    )
    return list(Organization.objects.filter(active))


def key_of(row: UsageRecord) -> Key:
    """What the record counts by."""
    return Key(
        row.hour,
        row.item,
        model_name=row.model_name,
        key_id=row.key_id,
        accelerator_type_slug=row.accelerator_type_slug,
        pool_name=row.pool_name,
        purpose=row.purpose,
        subject_name=row.subject_name,
        cost_centre=row.cost_centre,
        of_hour=row.of_hour,
    )


def _write(
    organization: Organization,
    *,
    start: datetime,
    end: datetime,
    seal_until: datetime,
    now: datetime,
) -> None:
    computed = sums.compute(organization, start=start, end=end, now=now)
    present = {key_of(row): row for row in _records(organization, start, end)}
    new, changed = [], []
    for key, quantity in computed.quantities.items():
        row = present.pop(key, None)
        sealed_at = now if key.hour < seal_until else None
        if row is None:
            new.append(_record(organization, key, quantity, computed, sealed_at))
        elif row.quantity != quantity or (row.sealed_at is None and sealed_at is not None):
            row.quantity, row.sealed_at = quantity, sealed_at
            changed.append(row)
    UsageRecord.objects.filter(pk__in=[row.pk for row in present.values()]).delete()
    UsageRecord.objects.bulk_create(new, batch_size=ROWS)
    UsageRecord.objects.bulk_update(changed, ["quantity", "sealed_at"], batch_size=ROWS)


def _records(organization: Organization, start: datetime, end: datetime) -> list[UsageRecord]:
    rows = UsageRecord.objects.of(organization).filter(hour__gte=start, hour__lt=end)
    return list(rows.order_by())


def _record(
    organization: Organization,
    key: Key,
    quantity: Decimal,
    computed: Sums,
    sealed_at: datetime | None,
) -> UsageRecord:
    return UsageRecord(
        organization=organization,
        hour=key.hour,
        of_hour=key.of_hour,
        item=key.item,
        model_name=key.model_name,
        key_id=key.key_id,
        key_name=computed.key_names.get(key.key_id, "") if key.key_id else "",
        accelerator_type_slug=key.accelerator_type_slug,
        pool_name=key.pool_name,
        purpose=key.purpose,
        subject_name=key.subject_name,
        cost_centre=key.cost_centre,
        quantity=quantity,
        sealed_at=sealed_at,
    )
