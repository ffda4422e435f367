"""Usage and statement: who used what, and what is owed?"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.core.cache import cache
from django.db.models import QuerySet, Sum
from django.db.models.functions import TruncDay
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.choices import Capability
from accounts.models import Organization
from common.errors import InvalidInput
from console import charts
from console.downloads import csv_download, pdf_download
from console.pages import ConsoleRequest, console_page, show
from usage import issuing, paper, periods, statements
from usage.choices import Item
from usage.models import UsageRecord

COST_SECONDS = 30
TOKENS = [Item.INPUT_TOKENS, Item.OUTPUT_TOKENS]


@dataclass(frozen=True)
class Month:
    """A calendar month in an organization's time zone; `slug` is YYYY-MM."""

    slug: str
    begins_at: datetime
    ends_at: datetime


def month_of(request: ConsoleRequest) -> Month:
    """The month that the URL asks for, else the present one."""
    present = periods.month_of(request.organization, request.now)
    asked = request.GET.get("month", "")
    try:
        return _month(request.organization, asked if asked <= present else present)
    except InvalidInput:
        return _month(request.organization, present)


def _month(organization: Organization, slug: str) -> Month:
    begins_at, ends_at = periods.month(organization, slug)
    return Month(slug, begins_at, ends_at)


def months(request: ConsoleRequest, count: int = 12) -> list[str]:
    """The last months, the newest first."""
    found = [periods.month_of(request.organization, request.now)]
    while len(found) < count:
        begins_at, _ends_at = periods.month(request.organization, found[-1])
        found.append(periods.month_of(request.organization, begins_at - timedelta(days=1)))
    return found


def records(organization: Organization, month: Month) -> QuerySet[UsageRecord]:
    """The ledger's records of the month."""
    return UsageRecord.objects.of(organization).filter(
        hour__gte=month.begins_at, hour__lt=month.ends_at
    )


@dataclass(frozen=True)
class MonthSoFar:
    """What the present month has come to."""

    tokens: int
    cost: Decimal
    currency: str


def month_so_far(request: ConsoleRequest) -> MonthSoFar:
    """Tokens and cost of the present month, at most half a minute old."""
    organization = request.organization
    name = f"console:month-so-far:{organization.pk}"
    kept: MonthSoFar | None = cache.get(name)
    if kept is None:
        month = _month(organization, periods.month_of(organization, request.now))
        found = statements.statement(
            organization=organization, start=month.begins_at, end=month.ends_at, now=request.now
        )
        tokens = records(organization, month).filter(item__in=TOKENS).aggregate(Sum("quantity"))
        kept = MonthSoFar(int(tokens["quantity__sum"] or 0), found.total, found.currency)
        cache.set(name, kept, COST_SECONDS)
    return kept


@console_page(Capability.VIEW_USAGE)
def statement(request: ConsoleRequest) -> HttpResponse:
    """What is owed for a month: the same figures as the API gives."""
    month = month_of(request)
    found = issuing.of_month(organization=request.organization, month=month.slug, now=request.now)
    if request.GET.get("format") == "csv":
        return _statement_csv(found, month)
    if request.GET.get("format") == "pdf":
        name = f"statement-{found.number or month.slug}.pdf"
        return pdf_download(paper.render(found), name)
    return show(
        request,
        "console/usage/statement.html",
        {
            "title": _("Statement"),
            "lede": _("What is owed for the month: what was used, times the price book."),
            "actions": "console/usage/_actions.html",
            "month": month,
            "months": months(request),
            "statement": found,
            "lines": [(Item(line.what.item).label, line) for line in found.lines],
            "keys": _by_name(found.keys),
            "other_totals": [
                (currency, amount)
                for currency, amount in found.totals.items()
                if currency != found.currency
            ],
        },
    )


def _by_name(keys: list[statements.KeyUse]) -> list[statements.KeyUse]:
    """The platform makes itself keys as it goes: those of one name are one line."""
    found: dict[tuple[str, bool], statements.KeyUse] = {}
    for use in keys:
        name = (use.key_name if use.is_internal else str(use.key_id), use.is_internal)
        if name not in found:
            found[name] = replace(use)
            continue
        line = found[name]
        line.requests += use.requests
        line.input_tokens += use.input_tokens
        line.cached_input_tokens += use.cached_input_tokens
        line.output_tokens += use.output_tokens
    return list(found.values())


def _statement_csv(found: statements.Statement, month: Month) -> HttpResponse:
    header = [
        "item", "model_name", "accelerator_type", "pool_name", "purpose", "subject_name",
        "quantity", "unit", "unit_price", "price_unit", "currency", "amount",
    ]  # fmt: skip
    rows = (
        [
            line.what.item,
            line.what.model_name,
            line.what.accelerator_type_slug,
            line.what.pool_name,
            line.what.purpose,
            line.what.subject_name,
            line.quantity,
            line.unit,
            line.unit_price,
            line.price_unit,
            line.currency,
            line.amount,
        ]
        for line in found.lines
    )
    return csv_download(charts.as_csv(header, rows), f"statement-{month.slug}.csv")


@console_page(Capability.VIEW_USAGE)
def usage(request: ConsoleRequest) -> HttpResponse:
    month = month_of(request)
    statements.refresh(organization=request.organization, now=request.now)
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
            "chart": _chart(rows, request.organization, month),
            "by_model": _by(rows.exclude(model_name=""), "model_name"),
            "by_key": _by(rows.exclude(key_name=""), "key_name"),
            "by_subject": rows.filter(item=Item.ACCELERATOR_SECONDS)
            .values("subject_name", "purpose", "accelerator_type_slug", "pool_name")
            .annotate(amount=Sum("quantity"))
            .order_by("-amount")[:20],
        },
    )


def _by(rows: QuerySet[UsageRecord], field: str) -> list[dict[str, object]]:
    """Requests and tokens by model or by key, those with the most output first."""
    found: dict[str, dict[str, object]] = {}
    for row in rows.values(field, "item").order_by().annotate(amount=Sum("quantity")):
        found.setdefault(row[field], {"name": row[field]})[row["item"]] = row["amount"]
    return sorted(
        found.values(), key=lambda one: Decimal(str(one.get(Item.OUTPUT_TOKENS, 0))), reverse=True
    )[:20]


def _chart(rows: QuerySet[UsageRecord], organization: Organization, month: Month) -> charts.Chart:
    zone = ZoneInfo(organization.time_zone)
    first = month.begins_at.astimezone(zone).date()
    by_day = {
        row["day"].date(): float(row["amount"])
        for row in rows.filter(item__in=TOKENS)
        .annotate(day=TruncDay("hour", tzinfo=zone))
        .values("day")
        .order_by()
        .annotate(amount=Sum("quantity"))
    }
    days = (month.ends_at.astimezone(zone).date() - first).days
    all_days = [first + timedelta(days=index) for index in range(days)]
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
