"""Hourly records, computed from rows that only grow: events, allocations and training runs.

An hour is computed anew until it is sealed, two hours after its end. Computing any hour again, at
any time, gives the same records.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Exists, Max, Min, OuterRef, Q, Sum
from django.db.models.functions import TruncHour

from accounts.models import Organization
from chips.models import Allocation
from common import locks
from training.models import TrainingRun
from usage.choices import Item
from usage.models import UsageEvent, UsageRecord

HOUR = timedelta(hours=1)
SEALED_AFTER = timedelta(hours=2)  # after an hour's end; events wait for less than that
RECENT = timedelta(days=2)
ANSWERED = 400  # statuses below it: the client got an answer
SMALLEST = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Key:
    """What a record counts by: the columns of its unique constraint, but for the organization."""

    hour: datetime
    item: str
    model_name: str = ""
    key_id: UUID | None = None
    accelerator_type_slug: str = ""
    pool_name: str = ""
    purpose: str = ""
    subject_name: str = ""


@dataclass(slots=True)
class Sums:
    """Quantities by what they are counted by, and the names of the API keys among those."""

    quantities: defaultdict[Key, Decimal]
    key_names: dict[UUID, str]


def hour_of(at: datetime) -> datetime:
    """The start of the hour, UTC."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def is_to_be_sealed(hour: datetime, *, now: datetime) -> bool:
    return hour + HOUR + SEALED_AFTER <= now


def last_sealed_hour(organization: Organization) -> datetime | None:
    """All hours up to this one are sealed, those without any use too."""
    rows = UsageRecord.objects.of(organization).filter(sealed_at__isnull=False)
    return rows.aggregate(last=Max("hour"))["last"]  # type: ignore[no-any-return]


def roll_up_open(*, organization: Organization, now: datetime) -> None:
    """Compute all hours that are not sealed, and seal those whose time has come."""
    sealed = last_sealed_hour(organization)
    start = sealed + HOUR if sealed else _first_hour(organization)
    if start is not None:
        roll_up(organization=organization, start=start, end=hour_of(now) + HOUR, now=now)


@transaction.atomic
def roll_up(*, organization: Organization, start: datetime, end: datetime, now: datetime) -> None:
    """Compute the records of the hours from `start` until before `end`, both full hours.

    Writes only what has changed.
    """
    locks.lock_until_commit(f"usage.roll_up.{organization.pk}")
    sums = _compute(organization, start, end, now)
    present = {
        _key_of(row): row
        for row in UsageRecord.objects.of(organization).filter(hour__gte=start, hour__lt=end)
    }
    new, changed = [], []
    for key, quantity in sums.quantities.items():
        row = present.pop(key, None)
        sealed_at = now if is_to_be_sealed(key.hour, now=now) else None
        if row is None:
            new.append(_record(organization, key, quantity, sums, sealed_at))
        elif row.quantity != quantity or (row.sealed_at is None and sealed_at is not None):
            row.quantity, row.sealed_at = quantity, sealed_at
            changed.append(row)
    UsageRecord.objects.filter(pk__in=[row.pk for row in present.values()]).delete()
    UsageRecord.objects.bulk_create(new)
    UsageRecord.objects.bulk_update(changed, ["quantity", "sealed_at"], batch_size=1000)


def list_active_organizations(*, now: datetime) -> list[Organization]:
    """Those that may have something to roll up: recent events, held accelerators, open hours."""
    since, own = now - RECENT, OuterRef("pk")
    held = Q(released_at__isnull=True) | Q(released_at__gte=since)
    active = (
        Exists(UsageEvent.objects.filter(organization=own, at__gte=since))
        | Exists(UsageRecord.objects.filter(organization=own, sealed_at__isnull=True))
        | Exists(Allocation.objects.filter(held, organization=own))
        | Exists(TrainingRun.objects.filter(organization=own, ended_at__gte=since))
    )
    return list(Organization.objects.filter(active))


def _compute(organization: Organization, start: datetime, end: datetime, now: datetime) -> Sums:
    sums = Sums(defaultdict(Decimal), {})
    _add_events(sums, organization, start, end)
    _add_accelerators(sums, organization, start, end, now)
    _add_training(sums, organization, start, end)
    for key in [key for key, quantity in sums.quantities.items() if not quantity]:
        del sums.quantities[key]
    return sums


def _add_events(sums: Sums, organization: Organization, start: datetime, end: datetime) -> None:
    rows = (
        UsageEvent.objects.of(organization)
        .filter(at__gte=start, at__lt=end)
        .order_by()
        .annotate(hour=TruncHour("at", tzinfo=UTC))
        .values("hour", "model_name", "key_id")
        .annotate(
            named=Max("key_name"),
            requests=Count("pk", filter=Q(status_code__lt=ANSWERED)),
            inputs=Sum("input_tokens"),
            cached=Sum("cached_input_tokens"),
            outputs=Sum("output_tokens"),
        )
    )
    for row in rows:
        counted = {
            Item.REQUESTS: row["requests"],
            Item.INPUT_TOKENS: row["inputs"],
            Item.CACHED_INPUT_TOKENS: row["cached"],
            Item.OUTPUT_TOKENS: row["outputs"],
        }
        for item, count in counted.items():
            key = Key(row["hour"], item, row["model_name"], row["key_id"])
            sums.quantities[key] += Decimal(count)
        if row["key_id"]:
            sums.key_names[row["key_id"]] = row["named"]


def _add_accelerators(
    sums: Sums, organization: Organization, start: datetime, end: datetime, now: datetime
) -> None:
    """Seconds held within each hour times the accelerators held; until now where still held."""
    rows = Allocation.objects.of(organization).filter(held_at__lt=end)
    for row in rows.filter(Q(released_at__isnull=True) | Q(released_at__gt=start)):
        first = max(row.held_at, start)
        last = min(row.released_at or now, end)
        for hour, seconds in split_by_hour(first, last):
            key = Key(
                hour,
                Item.ACCELERATOR_SECONDS,
                accelerator_type_slug=row.accelerator_type_slug,
                pool_name=row.pool_name,
                purpose=row.purpose,
                subject_name=row.subject_name,
            )
            sums.quantities[key] += (seconds * row.accelerator_share).quantize(SMALLEST)


def _add_training(sums: Sums, organization: Organization, start: datetime, end: datetime) -> None:
    """Tokens that a run was trained on, in the hour in which it ended, however it ended."""
    rows = TrainingRun.objects.of(organization).filter(ended_at__gte=start, ended_at__lt=end)
    for row in rows.filter(tokens_total__gt=0).select_related("base_revision__registered_model"):
        if row.ended_at is None:
            continue
        key = Key(
            hour_of(row.ended_at),
            Item.TRAINING_TOKENS,
            model_name=row.base_revision.registered_model.name,
            purpose="training",
            subject_name=row.name,
        )
        sums.quantities[key] += Decimal(row.tokens_total)


def split_by_hour(first: datetime, last: datetime) -> Iterator[tuple[datetime, Decimal]]:
    """The hours that a span touches, each with the seconds of the span within it."""
    hour = hour_of(first)
    while hour < last:
        within = min(last, hour + HOUR) - max(first, hour)
        if within > timedelta(0):
            yield hour, Decimal(within // timedelta(microseconds=1)) / 1_000_000
        hour += HOUR


def _first_hour(organization: Organization) -> datetime | None:
    firsts = [
        UsageEvent.objects.of(organization).aggregate(first=Min("at"))["first"],
        Allocation.objects.of(organization).aggregate(first=Min("held_at"))["first"],
        TrainingRun.objects.of(organization).aggregate(first=Min("ended_at"))["first"],
    ]
    known = [each for each in firsts if each is not None]
    return hour_of(min(known)) if known else None


def _key_of(row: UsageRecord) -> Key:
    return Key(
        row.hour,
        row.item,
        row.model_name,
        row.key_id,
        row.accelerator_type_slug,
        row.pool_name,
        row.purpose,
        row.subject_name,
    )


def _record(
    organization: Organization, key: Key, quantity: Decimal, sums: Sums, sealed_at: datetime | None
) -> UsageRecord:
    return UsageRecord(
        organization=organization,
        hour=key.hour,
        item=key.item,
        model_name=key.model_name,
        key_id=key.key_id,
        key_name=sums.key_names.get(key.key_id, "") if key.key_id else "",
        accelerator_type_slug=key.accelerator_type_slug,
        pool_name=key.pool_name,
        purpose=key.purpose,
        subject_name=key.subject_name,
        quantity=quantity,
        sealed_at=sealed_at,
    )
