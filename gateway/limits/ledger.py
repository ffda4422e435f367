"""Limits as they are in the database, and what the ledger knows was used of them."""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from django.db import close_old_connections, connection
from django.db.models import Count, QuerySet, Sum

from accounts.choices import LimitKind
from accounts.limit_periods import MONEY_UNIT
from accounts.models import Limit, Organization
from chips.choices import PriceItem
from chips.price_book import PriceBook
from deployments import planning
from deployments.models import RouteTarget
from gateway.limits.rules import Prices, Rule, Rules, Tariff
from usage.models import UsageEvent

UNITS_A_TOKEN = 1 / MONEY_UNIT / 1_000_000  # of a price, which is for a million tokens


class DatabaseLedger:
    """A Ledger on this platform's tables."""

    def load_rules(self) -> dict[str, Rules]:
        _renew_connection()
        rows: dict[Organization, list[Limit]] = {}
        for row in Limit.objects.select_related("organization"):
            rows.setdefault(row.organization, []).append(row)
        contexts = _context_tokens(rows)
        return {
            str(each.pk): _rules(each, limits, contexts.get(each.pk, {}))
            for each, limits in rows.items()
        }

    def load_spent(self, rule: Rule, start: float, end: float) -> int:
        """By what requests ended in the period, at the prices of that moment. Those that are on
        their way to the ledger, of the last seconds, are not in it."""
        _renew_connection()
        rows = UsageEvent.objects.filter(
            organization_id=rule.organization_id,
            at__gte=datetime.fromtimestamp(start, UTC),
            at__lt=datetime.fromtimestamp(end, UTC),
        ).order_by()
        if rule.key_id is not None:
            rows = rows.filter(key_id=rule.key_id)
        if rule.model_name:
            rows = rows.filter(model_name=rule.model_name)
        if rule.measure == "requests":
            return rows.count()
        if rule.measure == "tokens":
            sums = rows.aggregate(into=Sum("input_tokens"), out=Sum("output_tokens"))
            return int(sums["into"] or 0) + int(sums["out"] or 0)
        return _money(rows, rule, start, end)


def _money(rows: QuerySet[UsageEvent], rule: Rule, start: float, end: float) -> int:
    book = PriceBook(Organization.objects.get(pk=rule.organization_id))
    names = set(rows.values_list("model_name", "provider_name").order_by().distinct())
    changes = [at.timestamp() for at in book.changes()]
    edges = [start, *sorted(at for at in changes if start < at < end), end]
    total = 0.0
    for since, until in itertools.pairwise(edges):
        prices_at = datetime.fromtimestamp(since, UTC)
        prices_of = {pair: _prices(book, pair[0], prices_at, pair[1]) for pair in names}
        within = rows.filter(at__gte=prices_at, at__lt=datetime.fromtimestamp(until, UTC))
        for each in within.values("model_name", "provider_name").annotate(
            into=Sum("input_tokens"),
            cached=Sum("cached_input_tokens"),
            out=Sum("output_tokens"),
            requests=Count("pk"),
        ):
            prices = prices_of[each["model_name"], each["provider_name"]]
            total += (
                (each["into"] - each["cached"]) * prices.input
                + each["cached"] * prices.cached_input
                + each["out"] * prices.output
            )
    return round(total)


def _context_tokens(organizations: Iterable[Organization]) -> dict[UUID, dict[str, int]]:
    """By organization and public model name; the largest of a route's deployments. What a provider
    takes at most is not known: it counts as what deployments take where nobody says otherwise."""
    targets = RouteTarget.objects.filter(route__organization__in=list(organizations))
    found: dict[UUID, dict[str, int]] = {}
    for target in targets.select_related("route", "deployment__revision"):
        names = found.setdefault(target.route.organization_id, {})
        tokens = planning.DEFAULT_CONTEXT_TOKENS
        if target.deployment is not None:
            tokens = planning.context_tokens(target.deployment)
        names[target.route.name] = max(tokens, names.get(target.route.name, 0))
    return found


def _rules(organization: Organization, limits: Iterable[Limit], contexts: dict[str, int]) -> Rules:
    rules = tuple(_rule(organization, row) for row in limits)
    rules = tuple(sorted(rules, key=lambda rule: rule.id))
    tariffs: dict[str, Tariff] = {}
    if any(rule.measure == "money" for rule in rules):
        book = PriceBook(organization)
        providers = _providers(organization)
        tariffs = {name: _tariff(book, name, providers.get(name, ())) for name in contexts}
    return Rules(rules=rules, tariffs=tariffs, context_tokens=contexts)


def _rule(organization: Organization, row: Limit) -> Rule:
    kind = LimitKind(row.kind)
    unit = MONEY_UNIT if kind.measure == "money" else 1
    return Rule(
        id=str(row.pk),
        measure=kind.measure,
        period=kind.period,
        amount=round(float(row.amount) / unit),
        organization_id=str(organization.pk),
        key_id=str(row.key_id) if row.key_id else None,
        model_name=row.model_name,
        warn_percent=row.warn_percent,
        time_zone=organization.time_zone,
        currency=organization.currency,
    )


def _providers(organization: Organization) -> dict[str, list[str]]:
    """By public model name: the providers that may answer for it."""
    targets = RouteTarget.objects.filter(route__organization=organization, provider__isnull=False)
    found: dict[str, list[str]] = {}
    for name, provider_name in targets.values_list("route__name", "provider__name"):
        found.setdefault(name, []).append(provider_name)
    return found


def _tariff(book: PriceBook, model_name: str, providers: Sequence[str]) -> Tariff:
    """Before a request nobody knows who answers it: it counts at the dearest price of all that may,
    so that a budget is never overspent."""
    starts = [datetime.fromtimestamp(0, UTC), *book.changes()]
    return Tariff(
        starts=tuple(at.timestamp() for at in starts),
        prices=tuple(_dearest(book, model_name, at, providers) for at in starts),
    )


def _dearest(book: PriceBook, model_name: str, at: datetime, providers: Sequence[str]) -> Prices:
    all_prices = [_prices(book, model_name, at, name) for name in ("", *providers)]
    return Prices(
        input=max(each.input for each in all_prices),
        cached_input=max(each.cached_input for each in all_prices),
        output=max(each.output for each in all_prices),
    )


def _prices(book: PriceBook, model_name: str, at: datetime, provider_name: str) -> Prices:
    """Cached tokens cost what others do where they have no price of their own."""

    def price(item: str) -> float | None:
        found = book.at(item=item, at=at, model_name=model_name, provider_name=provider_name)
        return float(found.unit_price) * UNITS_A_TOKEN if found else None

    into = price(PriceItem.INPUT_TOKENS) or 0.0
    cached = price(PriceItem.CACHED_INPUT_TOKENS)
    return Prices(
        input=into,
        cached_input=into if cached is None else cached,
        output=price(PriceItem.OUTPUT_TOKENS) or 0.0,
    )


def _renew_connection() -> None:
    """These threads live long and serve no request, after which Django would look to that."""
    if not connection.in_atomic_block:
        close_old_connections()
