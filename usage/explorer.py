"""Usage over time, stacked by who or what used it."""

import zoneinfo
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Aggregate, Count, FloatField, Max, Min, Q, QuerySet, Sum
from django.db.models.functions import Coalesce, TruncDay, TruncHour

from accounts.models import Organization
from chips.price_book import PriceBook
from common.errors import InvalidInput
from usage import cells, statements
from usage.cells import What
from usage.choices import Item
from usage.models import UsageEvent, UsageRecord

FROM_RECORDS: dict[str, list[str]] = {
    "tokens": [
        Item.INPUT_TOKENS,
        Item.OUTPUT_TOKENS,
        Item.BATCH_INPUT_TOKENS,
        Item.BATCH_OUTPUT_TOKENS,
    ],
    "requests": [Item.REQUESTS],
    "money": [],  # every item that has a price
}
FROM_EVENTS = ("errors", "first_token")
MEASURES = (*FROM_RECORDS, *FROM_EVENTS)
BY = {"model": "model_name", "key": "key_id", "cost_centre": "cost_centre"}
STEPS = {"day": timedelta(days=1), "hour": timedelta(hours=1)}
MOST_STEPS = 400
MOST_GROUPS = 8  # shown by name; the rest together is the last of them
LONGEST_EVENTS = timedelta(days=7)  # these are counted from single requests


@dataclass(frozen=True, slots=True)
class Question:
    """`start` and `end` (excluded) are full hours. `model_name` and `key_id` narrow it."""

    measure: str
    by: str
    step: str
    start: datetime
    end: datetime
    model_name: str = ""
    key_id: UUID | None = None


@dataclass(slots=True)
class Group:
    """One model, key or cost centre; `values` belong to the answer's steps, None where there was
    nothing to measure."""

    name: str
    label: str
    values: list[float | None]
    total: Decimal | None  # None for times, which do not add up
    is_rest: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """`steps` are the starts of days or hours, in the organization's time zone; `currency` is set
    for money. Times are milliseconds: what 95 % of the streams had their first token within."""

    steps: list[datetime]
    groups: list[Group]
    currency: str = ""

    @property
    def total(self) -> Decimal:
        return sum((group.total or Decimal(0) for group in self.groups), Decimal(0))


class Percentile95(Aggregate):
    """PostgreSQL's percentile_cont(0.95)."""

    function = "PERCENTILE_CONT"
    template = "%(function)s(0.95) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = FloatField()


def explore(organization: Organization, question: Question) -> Answer:
    """Records as they stand; for errors and times, single requests of at most a week. Money is at
    list price, before free allowances. Raises InvalidInput."""
    _check(question)
    steps = list(_steps(organization, question))
    if question.measure in FROM_EVENTS:
        found, names = _from_events(organization, question)
        currency = ""
    else:
        found, names, currency = _from_records(organization, question)
    return Answer(steps, _groups(question, steps, found, names), currency)


def _check(question: Question) -> None:
    for field, value, known in (
        ("measure", question.measure, MEASURES),
        ("by", question.by, BY),
        ("step", question.step, STEPS),
    ):
        if value not in known:
            raise InvalidInput(
                f"{value!r} is none.", field=field, remedy=f"Choose from {', '.join(known)}."
            )
    length = question.end - question.start
    if length > STEPS[question.step] * MOST_STEPS:
        raise InvalidInput(
            f"More than {MOST_STEPS} steps.", field="step", remedy="Choose days, or a shorter span."
        )
    if question.measure in FROM_EVENTS:
        if length > LONGEST_EVENTS + timedelta(days=1):
            raise InvalidInput(
                "Errors and times are counted from single requests, for a week at most.",
                field="from",
                remedy="Choose a shorter span.",
            )
        if question.by == "cost_centre":
            raise InvalidInput(
                "Errors and times have no cost centre.", field="by", remedy="Choose model or key."
            )


def _steps(organization: Organization, question: Question) -> Iterator[datetime]:
    zone = zoneinfo.ZoneInfo(organization.time_zone)
    at = question.start.astimezone(zone)
    if question.step == "day":
        at = at.replace(hour=0, minute=0)
        while at < question.end:
            yield at
            # by the calendar: a day has 23 or 25 hours when clocks change
            at = datetime.combine(at.date() + timedelta(days=1), at.time(), zone)
        return
    moment = question.start
    while moment < question.end:
        yield moment.astimezone(zone)
        moment += STEPS["hour"]


Found = dict[tuple[str, datetime], Decimal | float]


def _from_records(
    organization: Organization, question: Question
) -> tuple[Found, dict[str, str], str]:
    rows = UsageRecord.objects.of(organization).filter(
        hour__gte=question.start, hour__lt=question.end
    )
    rows = _narrowed(rows, question).annotate(at=_truncated("hour", organization, question))
    column, names = BY[question.by], dict[str, str]()
    if question.measure != "money":
        rows = rows.filter(item__in=FROM_RECORDS[question.measure])
        found: Found = {}
        for row in rows.values("at", column).annotate(
            amount=Sum("quantity"), named=Max("key_name")
        ):
            group = str(row[column] or "")
            names[group] = row["named"] if question.by == "key" else group
            found[group, row["at"]] = row["amount"]
        return found, names, ""
    return _money(organization, rows, column, question)


def _money(
    organization: Organization, rows: QuerySet[Any], column: str, question: Question
) -> tuple[Found, dict[str, str], str]:
    book = PriceBook(organization)
    what = ("item", "model_name", "accelerator_type_slug", "pool_name", "purpose", "subject_name")
    rows = rows.annotate(used=Coalesce("of_hour", "hour"))
    rows = rows.annotate(span=cells.spans(book.changes()))
    sums: defaultdict[tuple[str, datetime], Decimal] = defaultdict(Decimal)
    names: dict[str, str] = {}
    for row in rows.values(*{"at", "span", column, *what}).annotate(
        amount=Sum("quantity"), named=Max("key_name"), first=Min("used")
    ):
        group = str(row[column] or "")
        names[group] = row["named"] if question.by == "key" else group
        priced = What(**{name: row[name] for name in what})
        sums[group, row["at"]] += statements.list_price(
            priced, row["amount"], hour=row["first"], book=book, currency=organization.currency
        )
    return dict(sums), names, organization.currency


def _from_events(organization: Organization, question: Question) -> tuple[Found, dict[str, str]]:
    rows: QuerySet[Any, Any] = UsageEvent.objects.of(organization).filter(
        at__gte=question.start, at__lt=question.end
    )
    column = BY[question.by]
    rows = _narrowed(rows, question).annotate(step=_truncated("at", organization, question))
    grouped = rows.values("step", column)
    if question.measure == "errors":
        failed = Q(status_code__gte=400) & ~Q(status_code=499)
        grouped = grouped.annotate(amount=Count("pk", filter=failed), named=Max("key_name"))
    else:
        timed = Q(is_streamed=True, first_token_milliseconds__isnull=False)
        grouped = grouped.filter(timed).annotate(
            amount=Percentile95("first_token_milliseconds"), named=Max("key_name")
        )
    found: Found = {}
    names: dict[str, str] = {}
    for row in grouped:
        group = str(row[column] or "")
        names[group] = row["named"] if question.by == "key" else group
        found[group, row["step"]] = row["amount"]
    return found, names


def _narrowed(rows: QuerySet[Any], question: Question) -> QuerySet[Any]:
    if question.model_name:
        rows = rows.filter(model_name=question.model_name)
    if question.key_id is not None:
        rows = rows.filter(key_id=question.key_id)
    return rows.order_by()


def _truncated(field: str, organization: Organization, question: Question) -> Any:
    zone = zoneinfo.ZoneInfo(organization.time_zone)
    return (TruncDay if question.step == "day" else TruncHour)(field, tzinfo=zone)


def _groups(
    question: Question, steps: list[datetime], found: Found, names: dict[str, str]
) -> list[Group]:
    """The largest first; those for which there is no room are one."""
    adds_up = question.measure != "first_token"
    groups = []
    for name, label in names.items():
        values = [found.get((name, step)) for step in steps]
        weights = [Decimal(str(value)) for value in values if value is not None]
        total = sum(weights, Decimal(0))
        if not total:
            continue
        kept: list[float | None] = [None if value is None else float(value) for value in values]
        if adds_up:
            kept = [value or 0.0 for value in kept]
        groups.append((total, Group(name, label, kept, total if adds_up else None)))
    ordered = [group for _, group in sorted(groups, key=lambda pair: (-pair[0], pair[1].label))]
    if len(ordered) <= MOST_GROUPS or not adds_up:
        return ordered[:MOST_GROUPS]
    shown, rest = ordered[: MOST_GROUPS - 1], ordered[MOST_GROUPS - 1 :]
    together = Group(
        name="",
        label="",
        values=[sum(each.values[index] or 0.0 for each in rest) for index in range(len(steps))],
        total=sum((each.total or Decimal(0) for each in rest), Decimal(0)),
        is_rest=True,
    )
    return [*shown, together]
