"""Usage and statement: who used what, and what is owed?"""

import calendar
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db.models import Sum
from django.db.models.functions import TruncDay
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.choices import Capability
from accounts.models import Organization
from console import charts
from console.downloads import csv_download
from console.pages import ConsoleRequest, console_page, show
from usage.choices import Item
from usage.models import UsageRecord

TOKENS = [Item.INPUT_TOKENS, Item.OUTPUT_TOKENS]


@dataclass(frozen=True)
class Month:
    """A calendar month in an organization's time zone."""

    first: date
    begins_at: datetime
    ends_at: datetime

    @property
    def slug(self) -> str:
        return f"{self.first:%Y-%m}"


def month_of(request: ConsoleRequest) -> Month:
    """The month that the URL asks for, else the present one."""
    zone = ZoneInfo(request.organization.time_zone)
    first = request.now.astimezone(zone).date().replace(day=1)
    try:
        asked = datetime.strptime(request.GET.get("month", ""), "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        return make_month(first, zone)
    return make_month(min(asked.date(), first), zone)


def make_month(first: date, zone: ZoneInfo) -> Month:
    days = calendar.monthrange(first.year, first.month)[1]
    begins = datetime(first.year, first.month, 1, tzinfo=zone)
    after = first + timedelta(days=days)
    return Month(first, begins, datetime(after.year, after.month, 1, tzinfo=zone))


def months(request: ConsoleRequest, count: int = 12) -> list[str]:
    """The last months, the newest first, as the URL names them."""
    zone = ZoneInfo(request.organization.time_zone)
    first = request.now.astimezone(zone).date().replace(day=1)
    found = []
    for _index in range(count):
        found.append(f"{first:%Y-%m}")
        first = (first - timedelta(days=1)).replace(day=1)
    return found


def records(organization: Organization, month: Month):  # type: ignore[no-untyped-def]
    return UsageRecord.objects.of(organization).filter(
        hour__gte=month.begins_at, hour__lt=month.ends_at
    )


@console_page(Capability.VIEW_USAGE)
def usage(request: ConsoleRequest) -> HttpResponse:
    month = month_of(request)
    rows = records(request.organization, month)
    if request.GET.get("format") == "csv":
        return _csv(rows, month)
    totals = {
        row["item"]: row["amount"]
        for row in rows.values("item").order_by().annotate(amount=Sum("quantity"))
    }
    return show(
        request,
        "console/usage/usage.html",
        {
            "title": _("Usage"),
            "lede": _("Who used what, hour by hour, from one ledger."),
            "actions": "console/usage/_actions.html",
            "month": month,
            "months": months(request),
            "requests": totals.get(Item.REQUESTS, 0),
            "input_tokens": totals.get(Item.INPUT_TOKENS, 0),
            "cached_tokens": totals.get(Item.CACHED_INPUT_TOKENS, 0),
            "output_tokens": totals.get(Item.OUTPUT_TOKENS, 0),
            "training_tokens": totals.get(Item.TRAINING_TOKENS, 0),
            "accelerator_hours": Decimal(totals.get(Item.ACCELERATOR_SECONDS, 0)) / 3600,
            "chart": _chart(rows, month),
            "by_model": _by(rows.exclude(model_name=""), "model_name"),
            "by_key": _by(rows.exclude(key_name=""), "key_name"),
            "by_subject": rows.filter(item=Item.ACCELERATOR_SECONDS)
            .values("subject_name", "purpose", "accelerator_type_slug", "pool_name")
            .annotate(amount=Sum("quantity"))
            .order_by("-amount")[:20],
        },
    )


def _by(rows, field: str) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    """Requests and tokens by model or by key, those with the most output first."""
    found: dict[str, dict[str, object]] = {}
    for row in rows.values(field, "item").order_by().annotate(amount=Sum("quantity")):
        found.setdefault(row[field], {"name": row[field]})[row["item"]] = row["amount"]
    return sorted(
        found.values(), key=lambda one: Decimal(str(one.get(Item.OUTPUT_TOKENS, 0))), reverse=True
    )[:20]


def _chart(rows, month: Month) -> charts.Chart:  # type: ignore[no-untyped-def]
    zone = month.begins_at.tzinfo
    by_day = {
        row["day"].date(): float(row["amount"])
        for row in rows.filter(item__in=TOKENS)
        .annotate(day=TruncDay("hour", tzinfo=zone))
        .values("day")
        .order_by()
        .annotate(amount=Sum("quantity"))
    }
    days = (month.ends_at.date() - month.begins_at.date()).days
    all_days = [month.first + timedelta(days=index) for index in range(days)]
    return charts.bar_chart(
        title=_("Tokens by day"),
        x_title=_("Day"),
        y_title=_("Input and output tokens"),
        label=_("Tokens"),
        bars=[(f"{day:%m-%d}", by_day.get(day, 0.0)) for day in all_days],
        csv_url=f"{reverse('console:usage')}?month={month.slug}&format=csv",
    )


def _csv(rows: Iterable[UsageRecord], month: Month) -> HttpResponse:
    columns = [
        "hour",
        "item",
        "model_name",
        "key_name",
        "accelerator_type_slug",
        "pool_name",
        "purpose",
        "subject_name",
        "quantity",
    ]
    cells = (
        [row.hour.isoformat(), *(getattr(row, column) for column in columns[1:])] for row in rows
    )
    return csv_download(charts.as_csv(columns, cells), f"usage-{month.slug}.csv")
