"""What an organization owes for a span of time: records times the prices valid in their hours."""

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import redis

from accounts.models import ApiKey, Organization
from chips.choices import PriceItem
from chips.price_book import PriceBook
from usage import amounts, cells, ingest, rollups, sealing
from usage.cells import Cell, What
from usage.choices import PROVIDER, Item

logger = logging.getLogger(__name__)

MILLION_TOKENS = (Decimal(1_000_000), "tokens", "million tokens")
# What the price book calls each item, how many units its price is for, and both in words.
PRICED: dict[str, tuple[str, Decimal, str, str]] = {
    Item.INPUT_TOKENS: (PriceItem.INPUT_TOKENS, *MILLION_TOKENS),
    Item.CACHED_INPUT_TOKENS: (PriceItem.CACHED_INPUT_TOKENS, *MILLION_TOKENS),
    Item.OUTPUT_TOKENS: (PriceItem.OUTPUT_TOKENS, *MILLION_TOKENS),
    Item.BATCH_INPUT_TOKENS: (PriceItem.BATCH_INPUT_TOKENS, *MILLION_TOKENS),
    Item.BATCH_OUTPUT_TOKENS: (PriceItem.BATCH_OUTPUT_TOKENS, *MILLION_TOKENS),
    Item.TRAINING_TOKENS: (PriceItem.TRAINING_TOKENS, *MILLION_TOKENS),
    Item.ACCELERATOR_SECONDS: (
        PriceItem.ACCELERATOR_HOUR,
        Decimal(3600),
        "accelerator-seconds",
        "accelerator-hour",
    ),
    Item.STORAGE_GIGABYTE_HOURS: (
        PriceItem.STORAGE,
        Decimal(730),
        "gigabyte-hours",
        "gigabyte-month",
    ),
}
# Batches cost what other requests cost unless the price book says otherwise.
INSTEAD = {
    PriceItem.BATCH_INPUT_TOKENS: PriceItem.INPUT_TOKENS,
    PriceItem.BATCH_OUTPUT_TOKENS: PriceItem.OUTPUT_TOKENS,
}
Terms = tuple[Decimal | None, str]  # unit price and currency


@dataclass(frozen=True, slots=True)
class Line:
    """`amount` = (`quantity` - `free_quantity`) / (units in one `price_unit`) x `unit_price`; None
    where the price book has no price: such a line is shown and not added up. Requests are counted
    and have no price."""

    what: What
    quantity: Decimal
    free_quantity: Decimal
    unit: str
    unit_price: Decimal | None
    price_unit: str
    currency: str
    amount: Decimal | None


@dataclass(frozen=True, slots=True)
class Part:
    """What of a line (its index) falls to one key, model, cost centre or day."""

    group: str
    name: str
    line: int
    quantity: Decimal
    amount: Decimal | None


@dataclass(slots=True)
class Share:
    """All that falls to one key, model, cost centre or day. `is_internal`: the platform's own key,
    as for evaluations."""

    group: str
    name: str
    is_internal: bool = False
    quantities: dict[str, Decimal] = field(default_factory=dict)
    amounts: dict[str, Decimal] = field(default_factory=dict)  # by currency


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
    """`totals` by currency; `total` is the one in `currency`. `is_final`: every hour is sealed.

    `number` and `issued_at` are set once it is issued, and then nothing in it changes any more.
    """

    organization: Organization
    start: datetime
    end: datetime
    currency: str
    lines: list[Line]
    parts: dict[str, list[Part]]  # by key, model, cost_centre and day
    internal_keys: frozenset[str]
    totals: dict[str, Decimal]
    is_final: bool
    number: str = ""
    issued_at: datetime | None = None

    @property
    def total(self) -> Decimal:
        return self.totals.get(self.currency, Decimal(0))

    @property
    def payable(self) -> Decimal:
        """The total in whole coins."""
        return amounts.payable(self.total, currency=self.currency)

    @property
    def unpriced(self) -> list[Line]:
        """What the price book has no price for."""
        return [line for line in self.lines if line.price_unit and line.unit_price is None]

    @property
    def keys(self) -> list[KeyUse]:
        """Requests and tokens by key; what belongs to no key is left out."""
        counted = {name for name in KeyUse.__dataclass_fields__ if name in Item.values}
        found = [
            KeyUse(
                UUID(share.group) if share.group else None,
                share.name,
                share.is_internal,
                **{
                    item: int(quantity)
                    for item, quantity in share.quantities.items()
                    if item in counted
                },
            )
            for share in self.shares("key")
            if counted & share.quantities.keys()
        ]
        return sorted(found, key=lambda use: (use.is_internal, use.key_name))

    def shares(self, by: str) -> list[Share]:
        """Lines added up by key, model, cost_centre or day; over all, what `totals` says."""
        found: dict[str, Share] = {}
        for part in self.parts[by]:
            line = self.lines[part.line]
            share = found.setdefault(part.group, Share(part.group, part.name))
            share.is_internal = by == "key" and part.group in self.internal_keys
            item = line.what.item
            share.quantities[item] = share.quantities.get(item, Decimal(0)) + part.quantity
            if part.amount is not None:
                sums = share.amounts
                sums[line.currency] = sums.get(line.currency, Decimal(0)) + part.amount
        return [found[group] for group in sorted(found)]


def statement(
    *, organization: Organization, start: datetime, end: datetime, now: datetime
) -> Statement:
    """The statement of the hours from `start` until before `end`, at today's knowledge.

    First takes in what gateways told and rolls up the open hours, so that it agrees at once with
    what a client has counted. Free allowances count in spans that begin with a month and end
    within it.
    """
    refresh(organization=organization, now=now)
    return computed(organization=organization, start=start, end=end)


def refresh(*, organization: Organization, now: datetime) -> None:
    """Bring the organization's records up to now; without Redis, up to what was told before."""
    complete_until = None
    try:
        ingest.ingest_all(now=now)
        complete_until = ingest.complete_until(now=now)
    except redis.RedisError as error:
        logger.warning("what gateways told is not taken in: %s", error)
        complete_until = sealing.sealed_until(organization.pk) or now
    rollups.roll_up_open(organization=organization, now=now, complete_until=complete_until)


def computed(*, organization: Organization, start: datetime, end: datetime) -> Statement:
    """The statement from the records as they stand."""
    book = PriceBook(organization)
    counted = cells.count(organization, start=start, end=end, changes=book.changes())
    priced = _priced(counted, book)
    free = _free(priced, book, organization, start, end)
    lines, parts = _lines(priced, free)
    totals: dict[str, Decimal] = defaultdict(Decimal)
    for line in lines:
        if line.amount is not None:
            totals[line.currency] += line.amount
    currency = organization.currency
    if totals and currency not in totals:
        currency = min(totals)
    internal = ApiKey.objects.of(organization).filter(is_internal=True)
    used = {part.group for part in parts["key"]}
    sealed = sealing.sealed_until(organization.pk)
    return Statement(
        organization=organization,
        start=start,
        end=end,
        currency=currency,
        lines=lines,
        parts=parts,
        internal_keys=frozenset(used & {str(pk) for pk in internal.values_list("pk", flat=True)}),
        totals=dict(totals),
        is_final=sealed is not None and end <= sealed,
    )


def _priced(counted: list[Cell], book: PriceBook) -> list[tuple[Cell, Terms]]:
    """Every cell with its price. Cached tokens are among the input tokens: they are taken out of
    those and have a line of their own where they have a price of their own."""
    known: dict[tuple[What, int], Terms | None] = {}

    def terms(cell: Cell, item: str) -> Terms | None:
        what = cell.what.of(item)
        if (what, cell.span) not in known:
            known[what, cell.span] = _terms(what, cell.first_hour, book)
        return known[what, cell.span]

    priced: list[tuple[Cell, Terms]] = []
    for cell in counted:
        item = cell.what.item
        if item not in PRICED:
            priced.append((cell, (None, "")))
            continue
        found = terms(cell, item)
        if item == Item.CACHED_INPUT_TOKENS:
            if found is None:
                continue
            whole = cell.of(Item.INPUT_TOKENS, -cell.quantity)
            priced.append((whole, terms(cell, Item.INPUT_TOKENS) or (None, "")))
        priced.append((cell, found or (None, "")))
    return priced


def _terms(what: What, hour: datetime, book: PriceBook) -> Terms | None:
    """The price valid at the hour's start, or else the one that was in force at its end."""
    ending = hour + sealing.HOUR - (datetime.resolution)
    item = PRICED[what.item][0]
    for each in (item, INSTEAD.get(PriceItem(item))):
        for at in (hour, ending):
            found = each and book.at(
                item=each,
                at=at,
                accelerator_type_slug=what.accelerator_type_slug,
                pool_name=what.pool_name,
                model_name=what.model_name,
                provider_name=what.subject_name if what.purpose == PROVIDER else "",
            )
            if found:
                return found.unit_price, found.currency
    return None


def list_price(
    what: What, quantity: Decimal, *, hour: datetime, book: PriceBook, currency: str
) -> Decimal:
    """What so much of an item costs at the prices of an hour, before free allowances; 0 where there
    is no price in `currency`. Cached tokens: by how much they cost less than other input."""
    if what.item not in PRICED:
        return Decimal(0)
    size = PRICED[what.item][1]

    def amount(item: str) -> Decimal | None:
        found = _terms(what.of(item), hour, book)
        if found is None or found[0] is None or found[1] != currency:
            return None
        return amounts.amount_of(quantity, unit_price=found[0], size=size)

    own = amount(what.item)
    if what.item == Item.CACHED_INPUT_TOKENS and own is not None:
        return own - (amount(Item.INPUT_TOKENS) or Decimal(0))
    return own or Decimal(0)


def _free(
    priced: list[tuple[Cell, Terms]],
    book: PriceBook,
    organization: Organization,
    start: datetime,
    end: datetime,
) -> dict[tuple[What, Terms], Decimal]:
    """What of each line is free. What was used first in the month is free first."""
    free: dict[tuple[What, Terms], Decimal] = defaultdict(Decimal)
    if not cells.is_of_one_month(organization, start, end):
        return free
    used: dict[tuple[int, What, Terms], Decimal] = defaultdict(Decimal)
    for cell, terms in priced:
        if cell.by != "day" and terms[0] is not None:
            used[cell.span, cell.what, terms] += cell.quantity
    for allowance in book.allowances(start=start, end=end):
        items = [item for item, priced_as in PRICED.items() if priced_as[0] == allowance.item]
        left = allowance.quantity * PRICED[items[0]][1]
        order = sorted(used, key=lambda each: (each[0], cells.order(each[1]), each[2][0] or 0))
        for each in order:
            _span, what, terms = each
            if what.item in items and allowance.model_name in ("", what.model_name):
                taken = min(left, max(used[each], Decimal(0)))
                used[each] -= taken
                free[what, terms] += taken
                left -= taken
    return free


def _lines(
    priced: list[tuple[Cell, Terms]], free: dict[tuple[What, Terms], Decimal]
) -> tuple[list[Line], dict[str, list[Part]]]:
    """Lines of one thing at one price, and what of each falls to whom."""
    sums: dict[tuple[What, Terms], Decimal] = defaultdict(Decimal)
    shared: dict[str, dict[tuple[What, Terms], dict[str, Decimal]]] = {
        by: defaultdict(lambda: defaultdict(Decimal)) for by in cells.GROUPS
    }
    names: dict[tuple[str, str], str] = {}
    for cell, terms in priced:
        line = cell.what, terms
        if cell.by != "day":
            sums[line] += cell.quantity
        for by, group, name in cell.groups():
            shared[by][line][group] += cell.quantity
            names[by, group] = max(names.get((by, group), ""), name)
    order = sorted(
        (line for line, quantity in sums.items() if quantity),
        key=lambda line: (cells.order(line[0]), line[1][0] or 0, line[1][1]),
    )
    lines = [_line(*line, sums[line], free.get(line, Decimal(0))) for line in order]
    parts: dict[str, list[Part]] = {}
    for by, of_lines in shared.items():
        parts[by] = []
        for index, key in enumerate(order):
            groups = sorted(group for group, quantity in of_lines[key].items() if quantity)
            quantities = [of_lines[key][group] for group in groups]
            amount = lines[index].amount
            allotted: list[Decimal | None] = [None] * len(groups)
            if amount is not None:
                allotted = [*amounts.allot(amount, quantities)]
            parts[by] += [
                Part(group, names[by, group], index, quantity, part)
                for group, quantity, part in zip(groups, quantities, allotted, strict=True)
            ]
    return lines, parts


def _line(what: What, terms: Terms, quantity: Decimal, free: Decimal) -> Line:
    _item, size, unit, price_unit = PRICED.get(what.item, ("", Decimal(1), what.item, ""))
    unit_price, currency = terms
    amount = None
    if unit_price is not None:
        amount = amounts.amount_of(quantity - free, unit_price=unit_price, size=size)
    return Line(
        what=what,
        quantity=quantity,
        free_quantity=free,
        unit=unit,
        unit_price=unit_price,
        price_unit=price_unit,
        currency=currency,
        amount=amount,
    )
