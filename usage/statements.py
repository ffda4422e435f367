"""What an organization owes for a span of time: records times the prices valid in their hours."""

import bisect
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

from django.db.models import Q

from accounts.models import ApiKey, Organization
from chips import selectors as chips
from chips.choices import PriceItem
from chips.models import PriceEntry
from usage import ingest, rollups
from usage.choices import Item
from usage.models import UsageRecord

CENT = Decimal("0.000001")  # amounts are kept to a millionth: a token costs less than a cent
MILLION_TOKENS = (Decimal(1_000_000), "tokens", "million tokens")
# What the price book calls each item, how many units its price is for, and both in words.
PRICED: dict[str, tuple[str, Decimal, str, str]] = {
    Item.INPUT_TOKENS: (PriceItem.INPUT_TOKENS, *MILLION_TOKENS),
    Item.CACHED_INPUT_TOKENS: (PriceItem.CACHED_INPUT_TOKENS, *MILLION_TOKENS),
    Item.OUTPUT_TOKENS: (PriceItem.OUTPUT_TOKENS, *MILLION_TOKENS),
    Item.TRAINING_TOKENS: (PriceItem.TRAINING_TOKENS, *MILLION_TOKENS),
    Item.ACCELERATOR_SECONDS: (
        PriceItem.ACCELERATOR_HOUR,
        Decimal(3600),
        "accelerator-seconds",
        "accelerator-hour",
    ),
}


@dataclass(frozen=True, slots=True)
class What:
    """What a line is for."""

    item: str
    model_name: str
    accelerator_type_slug: str
    pool_name: str
    purpose: str
    subject_name: str


@dataclass(frozen=True, slots=True)
class Line:
    """`amount` = `quantity` / (units in one `price_unit`) x `unit_price`; None where the price book
    has no price: such a line is shown and not added up. Requests are counted and have no price."""

    what: What
    quantity: Decimal
    unit: str
    unit_price: Decimal | None
    price_unit: str
    currency: str
    amount: Decimal | None


@dataclass(slots=True)
class KeyUse:
    """How much of it each API key used. `is_internal`: the platform's own, as for evaluations."""

    key_id: UUID | None
    key_name: str
    is_internal: bool
    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Statement:
    """`totals` by currency; `total` is the one in `currency`. `is_final`: every hour is sealed."""

    organization: Organization
    start: datetime
    end: datetime
    currency: str
    lines: list[Line]
    keys: list[KeyUse]
    totals: dict[str, Decimal]
    is_final: bool

    @property
    def total(self) -> Decimal:
        return self.totals.get(self.currency, Decimal(0))

    @property
    def unpriced(self) -> list[Line]:
        """What the price book has no price for."""
        return [line for line in self.lines if line.price_unit and line.unit_price is None]


def statement(
    *, organization: Organization, start: datetime, end: datetime, now: datetime
) -> Statement:
    """The statement of the hours from `start` until before `end`.

    First takes in what gateways told and rolls up the open hours, so that it agrees at once with
    what a client has counted.
    """
    refresh(organization=organization, now=now)
    records = list(
        UsageRecord.objects.of(organization).filter(hour__gte=start, hour__lt=end).order_by("hour")
    )
    lines = _lines(records, _Prices(organization, start, end))
    totals: dict[str, Decimal] = defaultdict(Decimal)
    for line in lines:
        if line.amount is not None:
            totals[line.currency] += line.amount
    currency = organization.currency
    if totals and currency not in totals:
        currency = min(totals)
    return Statement(
        organization=organization,
        start=start,
        end=end,
        currency=currency,
        lines=lines,
        keys=_keys(organization, records),
        totals=dict(totals),
        is_final=rollups.is_to_be_sealed(rollups.hour_of(end) - rollups.HOUR, now=now)
        and all(record.sealed_at is not None for record in records),
    )


def refresh(*, organization: Organization, now: datetime) -> None:
    """Bring the organization's records up to now."""
    ingest.ingest_all(now=now)
    rollups.roll_up_open(organization=organization, now=now)


class _Prices:
    """Prices by hour. Asks the price book once for each span in which no price changes."""

    def __init__(self, organization: Organization, start: datetime, end: datetime) -> None:
        self._organization = organization
        self._known: dict[tuple[What, int, int], PriceEntry | None] = {}
        rows = PriceEntry.objects.filter(Q(organization=None) | Q(organization=organization))
        changes = {
            at for pair in rows.values_list("valid_from", "valid_until") for at in pair if at
        }
        self._changes = sorted(changes)

    def find(self, what: What, hour: datetime) -> PriceEntry | None:
        """The price valid at the hour's start, or else the one that was in force at its end."""
        last = hour + rollups.HOUR
        span = bisect.bisect_right(self._changes, hour), bisect.bisect_left(self._changes, last)
        if (what, *span) not in self._known:
            moment = self._changes[span[1] - 1] if span[1] > span[0] else hour
            self._known[what, *span] = self._ask(what, hour) or self._ask(what, moment)
        return self._known[what, *span]

    def _ask(self, what: What, at: datetime) -> PriceEntry | None:
        return chips.price_at(
            item=PRICED[what.item][0],
            at=at,
            organization=self._organization,
            accelerator_type_slug=what.accelerator_type_slug,
            pool_name=what.pool_name,
            model_name=what.model_name,
        )


def _lines(records: list[UsageRecord], prices: _Prices) -> list[Line]:
    sums: dict[tuple[What, Decimal | None, str], Decimal] = defaultdict(Decimal)
    for record in records:
        what = _what(record)
        if record.item not in PRICED:
            sums[what, None, ""] += record.quantity
            continue
        price = prices.find(what, record.hour)
        if record.item == Item.CACHED_INPUT_TOKENS:
            # They are among the input tokens: they move to a line of their own if they cost less.
            if price is None:
                continue
            whole = _what(record, item=Item.INPUT_TOKENS)
            of_input = prices.find(whole, record.hour)
            sums[whole, *_terms(of_input)] -= record.quantity
        sums[what, *_terms(price)] += record.quantity
    lines = [_line(*key, quantity) for key, quantity in sums.items() if quantity]
    return sorted(
        lines,
        key=lambda line: (
            Item.values.index(line.what.item),
            line.what.model_name,
            line.what.accelerator_type_slug,
            line.what.pool_name,
            line.what.purpose,
            line.what.subject_name,
            line.unit_price or 0,
        ),
    )


def _what(record: UsageRecord, *, item: str = "") -> What:
    return What(
        item=item or record.item,
        model_name=record.model_name,
        accelerator_type_slug=record.accelerator_type_slug,
        pool_name=record.pool_name,
        purpose=record.purpose,
        subject_name=record.subject_name,
    )


def _terms(price: PriceEntry | None) -> tuple[Decimal | None, str]:
    return (price.unit_price, price.currency) if price else (None, "")


def _line(what: What, unit_price: Decimal | None, currency: str, quantity: Decimal) -> Line:
    _item, size, unit, price_unit = PRICED.get(what.item, ("", Decimal(1), what.item, ""))
    amount = None
    if unit_price is not None:
        amount = (quantity / size * unit_price).quantize(CENT, ROUND_HALF_UP)
    return Line(
        what=what,
        quantity=quantity,
        unit=unit,
        unit_price=unit_price,
        price_unit=price_unit,
        currency=currency,
        amount=amount,
    )


def _keys(organization: Organization, records: list[UsageRecord]) -> list[KeyUse]:
    internal = set(
        ApiKey.objects.of(organization).filter(is_internal=True).values_list("pk", flat=True)
    )
    found: dict[UUID | None, KeyUse] = {}
    for record in records:
        if record.item not in KeyUse.__dataclass_fields__:
            continue
        use = found.setdefault(
            record.key_id, KeyUse(record.key_id, record.key_name, record.key_id in internal)
        )
        setattr(use, record.item, getattr(use, record.item) + int(record.quantity))
    return sorted(found.values(), key=lambda use: (use.is_internal, use.key_name))
