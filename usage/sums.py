"""What hours come to, computed from rows that only grow: events, allocations, runs and room held.

Whoever computes a past hour again, at any time, gets the same numbers.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

from django.db.models import Count, F, Max, Min, Q, QuerySet, Sum
from django.db.models.functions import TruncHour

from accounts.models import Organization
from chips.choices import Purpose
from chips.models import Allocation
from training.models import TrainingRun
from usage.choices import PROVIDER, Item
from usage.cost_centres import CentreBook
from usage.models import StorageHolding, UsageEvent
from usage.sealing import HOUR, hour_of

ANSWERED = 400  # statuses below it: the client got an answer
SMALLEST = Decimal("0.000001")
MICROSECOND = timedelta(microseconds=1)
GIGABYTE_HOUR = 10**9 * (HOUR // MICROSECOND)  # in byte-microseconds


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
    cost_centre: str = ""
    of_hour: datetime | None = None


@dataclass(slots=True)
class Sums:
    """Quantities by what they are counted by, and the names of the API keys among those."""

    quantities: defaultdict[Key, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    key_names: dict[UUID, str] = field(default_factory=dict)


def compute(organization: Organization, *, start: datetime, end: datetime, now: datetime) -> Sums:
    """The sums of the hours from `start` until before `end`, both full hours; none of them is 0."""
    sums, centres = Sums(), CentreBook(organization)
    _add_events(sums, centres, organization, start, end)
    _add_accelerators(sums, centres, organization, start, end, now)
    _add_training(sums, centres, organization, start, end)
    _add_storage(sums, centres, organization, start, end, now)
    for key in [key for key, quantity in sums.quantities.items() if not quantity]:
        del sums.quantities[key]
    return sums


def first_hour(organization: Organization) -> datetime | None:
    """The earliest hour in which there was any use; None if there never was."""
    firsts = [
        UsageEvent.objects.of(organization).aggregate(first=Min("at"))["first"],
        Allocation.objects.of(organization).aggregate(first=Min("held_at"))["first"],
        TrainingRun.objects.of(organization).aggregate(first=Min("ended_at"))["first"],
        StorageHolding.objects.of(organization).aggregate(first=Min("held_at"))["first"],
    ]
    known = [each for each in firsts if each is not None]
    return hour_of(min(known)) if known else None


def _add_events(
    sums: Sums, centres: CentreBook, organization: Organization, start: datetime, end: datetime
) -> None:
    rows = UsageEvent.objects.of(organization).order_by().annotate(own=TruncHour("at", tzinfo=UTC))
    on_time = rows.filter(late_hour__isnull=True, at__gte=start, at__lt=end)
    late = rows.filter(late_hour__gte=start, late_hour__lt=end)
    for row in _by_kind(on_time.annotate(counted=F("own"))):
        _add_row(sums, centres, row, of_hour=None)
    for row in _by_kind(late.annotate(counted=F("late_hour"))):
        _add_row(sums, centres, row, of_hour=row["own"])


def _by_kind(rows: QuerySet[UsageEvent]) -> Iterator[dict[str, Any]]:
    by = (
        "counted",
        "own",
        "model_name",
        "key_id",
        "deployment_name",
        "is_batch",
        "provider_name",
    )
    found: Iterator[dict[str, Any]] = (
        rows.values(*by)
        .annotate(
            named=Max("key_name"),
            requests=Count("pk", filter=Q(status_code__lt=ANSWERED)),
            inputs=Sum("input_tokens"),
            cached=Sum("cached_input_tokens"),
            outputs=Sum("output_tokens"),
        )
        .iterator()
    )
    return found


def _add_row(
    sums: Sums, centres: CentreBook, row: dict[str, Any], *, of_hour: datetime | None
) -> None:
    """Batches have items of their own; what of their input was cached has no price of its own."""
    counted = {Item.REQUESTS: row["requests"]}
    if row["is_batch"]:
        counted[Item.BATCH_INPUT_TOKENS] = row["inputs"]
        counted[Item.BATCH_OUTPUT_TOKENS] = row["outputs"]
    else:
        counted[Item.INPUT_TOKENS] = row["inputs"]
        counted[Item.CACHED_INPUT_TOKENS] = row["cached"]
        counted[Item.OUTPUT_TOKENS] = row["outputs"]
    centre = centres.of(row["own"], key_id=row["key_id"], deployment_name=row["deployment_name"])
    for item, count in counted.items():
        key = Key(
            row["counted"],
            item,
            model_name=row["model_name"],
            key_id=row["key_id"],
            purpose=PROVIDER if row["provider_name"] else "",
            subject_name=row["provider_name"],
            cost_centre=centre,
            of_hour=of_hour,
        )
        sums.quantities[key] += Decimal(count)
    if row["key_id"]:
        named = sums.key_names.get(row["key_id"], "")
        sums.key_names[row["key_id"]] = max(named, row["named"])


def _add_accelerators(
    sums: Sums,
    centres: CentreBook,
    organization: Organization,
    start: datetime,
    end: datetime,
    now: datetime,
) -> None:
    """Seconds held within each hour times the accelerators held; until now where still held."""
    rows = Allocation.objects.of(organization).filter(held_at__lt=end)
    for row in rows.filter(Q(released_at__isnull=True) | Q(released_at__gt=start)):
        first = max(row.held_at, start)
        last = min(row.released_at or now, end)
        deployment = row.subject_name if row.purpose == Purpose.SERVING else ""
        for hour, within in split_by_hour(first, last):
            key = Key(
                hour,
                Item.ACCELERATOR_SECONDS,
                accelerator_type_slug=row.accelerator_type_slug,
                pool_name=row.pool_name,
                purpose=row.purpose,
                subject_name=row.subject_name,
                cost_centre=centres.of(hour, deployment_name=deployment),
            )
            seconds = Decimal(within // MICROSECOND) / 1_000_000
            sums.quantities[key] += (seconds * row.accelerator_share).quantize(SMALLEST)


def _add_training(
    sums: Sums, centres: CentreBook, organization: Organization, start: datetime, end: datetime
) -> None:
    """Tokens that a run was trained on, in the hour in which it ended, however it ended."""
    rows = TrainingRun.objects.of(organization).filter(ended_at__gte=start, ended_at__lt=end)
    for row in rows.filter(tokens_total__gt=0).select_related("base_revision__registered_model"):
        if row.ended_at is None:
            continue
        hour = hour_of(row.ended_at)
        key = Key(
            hour,
            Item.TRAINING_TOKENS,
            model_name=row.base_revision.registered_model.name,
            purpose="training",
            subject_name=row.name,
            cost_centre=centres.of(hour),
        )
        sums.quantities[key] += Decimal(row.tokens_total)


def _add_storage(
    sums: Sums,
    centres: CentreBook,
    organization: Organization,
    start: datetime,
    end: datetime,
    now: datetime,
) -> None:
    """Bytes held times how long within each hour; rounded once, for all of one name."""
    held: defaultdict[Key, int] = defaultdict(int)  # byte-microseconds
    rows = StorageHolding.objects.of(organization).filter(held_at__lt=end)
    for row in rows.filter(Q(released_at__isnull=True) | Q(released_at__gt=start)):
        last = min(row.released_at or now, end)
        for hour, within in split_by_hour(max(row.held_at, start), last):
            key = Key(
                hour,
                Item.STORAGE_GIGABYTE_HOURS,
                purpose=row.kind,
                subject_name=row.subject_name,
                cost_centre=centres.of(hour),
            )
            held[key] += row.size_bytes * (within // MICROSECOND)
    for key, amount in held.items():
        exact = Decimal(amount) / GIGABYTE_HOUR
        sums.quantities[key] = exact.quantize(SMALLEST, ROUND_HALF_UP)


def split_by_hour(first: datetime, last: datetime) -> Iterator[tuple[datetime, timedelta]]:
    """The hours that a span touches, each with how much of the span lies within it."""
    hour = hour_of(first)
    while hour < last:
        within = min(last, hour + HOUR) - max(first, hour)
        if within > timedelta(0):
            yield hour, within
        hour += HOUR
