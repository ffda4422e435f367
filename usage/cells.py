"""Records added up by PostgreSQL into the cells that statements are made of."""

import zoneinfo
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib.postgres.fields import ArrayField
from django.db.models import (
    Case,
    DateTimeField,
    F,
    Func,
    IntegerField,
    Max,
    Min,
    QuerySet,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce, TruncDay, TruncMonth

from accounts.models import Organization
from usage.choices import Item
from usage.models import UsageRecord
from usage.sealing import HOUR, hour_of

GROUPS = ("key", "model", "cost_centre", "day")


@dataclass(frozen=True, slots=True)
class What:
    """What a line is for. `of_month` (YYYY-MM): an adjustment of that earlier month."""

    item: str
    model_name: str = ""
    accelerator_type_slug: str = ""
    pool_name: str = ""
    purpose: str = ""
    subject_name: str = ""
    of_month: str = ""

    def of(self, item: str) -> "What":
        return self if item == self.item else replace(self, item=item)


@dataclass(frozen=True, slots=True)
class Cell:
    """What was used by one key for one cost centre, or on one day, while no price changed.

    Cells of `by` "key" and those of "day" each add up to everything. `span` numbers the times
    between changes of prices; `first_hour` stands for all hours of it.
    """

    by: str
    what: What
    span: int
    first_hour: datetime
    quantity: Decimal
    key_id: UUID | None = None
    key_name: str = ""
    cost_centre: str = ""
    day: str = ""

    def of(self, item: str, quantity: Decimal) -> "Cell":
        return replace(self, what=self.what.of(item), quantity=quantity)

    def groups(self) -> Iterator[tuple[str, str, str]]:
        """To which key, model and cost centre, or to which day, it falls: kind, group, name."""
        if self.by == "day":
            yield "day", self.day, self.day
            return
        yield "key", str(self.key_id or ""), self.key_name
        yield "model", self.what.model_name, self.what.model_name
        yield "cost_centre", self.cost_centre, self.cost_centre


def order(what: What) -> tuple[Any, ...]:
    """How lines follow each other."""
    return (
        Item.values.index(what.item),
        what.model_name,
        what.accelerator_type_slug,
        what.pool_name,
        what.purpose,
        what.subject_name,
        what.of_month,
    )


def count(
    organization: Organization,
    *,
    start: datetime,
    end: datetime,
    changes: Sequence[datetime],
) -> list[Cell]:
    """All cells of the hours from `start` until before `end`; `changes`: when prices change."""
    zone = zoneinfo.ZoneInfo(organization.time_zone)
    what = ("item", "model_name", "accelerator_type_slug", "pool_name", "purpose", "subject_name")
    rows: QuerySet[Any, Any] = (
        UsageRecord.objects.of(organization)
        .filter(hour__gte=start, hour__lt=end)
        .order_by()
        .annotate(used=Coalesce("of_hour", "hour"))
        .annotate(
            span=spans(changes),
            adjusted=Case(
                When(of_hour__lt=start, then=TruncMonth("of_hour", tzinfo=zone)),
                output_field=DateTimeField(),
            ),
        )
    )
    sums = {"total": Sum("quantity"), "first": Min("used")}
    by_key = rows.values("span", "adjusted", *what, "key_id", "cost_centre")
    by_day = rows.annotate(day=TruncDay("hour", tzinfo=zone)).values(
        "span", "adjusted", *what, "day"
    )
    return [
        *(_cell("key", row) for row in by_key.annotate(named=Max("key_name"), **sums)),
        *(_cell("day", row) for row in by_day.annotate(**sums)),
    ]


def is_of_one_month(organization: Organization, start: datetime, end: datetime) -> bool:
    """Whether a span begins with a month of the organization's and ends within it."""
    zone = zoneinfo.ZoneInfo(organization.time_zone)
    first = start.astimezone(zone)
    last = (end - timedelta(microseconds=1)).astimezone(zone)
    begins = first == first.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return begins and (first.year, first.month) == (last.year, last.month)


def spans(changes: Sequence[datetime]) -> Func | Value:
    """Between which changes an hour is. An hour within which one falls is a span of its own."""
    limits = sorted({edge for at in changes for edge in (hour_of(at), _next_hour(at))})
    if not limits:
        return Value(0, output_field=IntegerField())
    array = Value(limits, output_field=ArrayField(DateTimeField()))
    return Func(F("used"), array, function="width_bucket", output_field=IntegerField())


def _next_hour(at: datetime) -> datetime:
    return hour_of(at) if at == hour_of(at) else hour_of(at) + HOUR


def _cell(by: str, row: dict[str, Any]) -> Cell:
    return Cell(
        by,
        _what(row),
        row["span"],
        row["first"],
        row["total"],
        key_id=row.get("key_id"),
        key_name=row.get("named", ""),
        cost_centre=row.get("cost_centre", ""),
        day=f"{row['day']:%Y-%m-%d}" if "day" in row else "",
    )


def _what(row: dict[str, Any]) -> What:
    return What(
        item=row["item"],
        model_name=row["model_name"],
        accelerator_type_slug=row["accelerator_type_slug"],
        pool_name=row["pool_name"],
        purpose=row["purpose"],
        subject_name=row["subject_name"],
        of_month=f"{row['adjusted']:%Y-%m}" if row["adjusted"] else "",
    )
