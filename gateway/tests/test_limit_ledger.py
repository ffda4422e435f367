"""Limits read from rows, and what the ledger says was used of them."""

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from accounts import limits
from accounts.choices import LimitKind
from accounts.limit_periods import MONEY_UNIT
from accounts.models import ApiKey
from accounts.tests.make import NOW, make_key, make_organization
from chips.choices import PriceItem
from chips.services import prices
from gateway.limits.ledger import DatabaseLedger
from usage.models import UsageEvent

pytestmark = pytest.mark.django_db

DAY = 86_400.0
START = NOW.replace(hour=0).timestamp()


def make_event(**fields) -> UsageEvent:
    values = {
        "request_id": str(uuid4()),
        "organization": make_organization(),
        "model_name": "tiny",
        "at": NOW,
        "input_tokens": 1000,
        "cached_input_tokens": 400,
        "output_tokens": 100,
    }
    return UsageEvent.objects.create(**(values | fields))


def set_price(item: str, price: str, since=NOW - timedelta(days=9)) -> None:
    prices.set_price(
        item=item, unit_price=Decimal(price), currency="USD", valid_from=since, now=NOW
    )


def make_rule(kind: str, amount: str = "10", **fields):
    organization = make_organization()
    wanted = limits.Wanted(kind=kind, amount=Decimal(amount), **fields)
    row = limits.create_limit(organization=organization, wanted=wanted, now=NOW)
    book = DatabaseLedger().load_rules()[str(organization.pk)]
    return book, next(rule for rule in book.rules if rule.id == str(row.pk))


def test_requests_and_tokens_of_a_key_and_model_in_the_period():
    make_key(make_organization())
    key = ApiKey.objects.get()
    make_event(key_id=key.pk)
    make_event(key_id=key.pk, model_name="big")
    make_event(at=NOW - timedelta(days=1))
    make_event(organization=make_organization("bank"))
    make_event()
    ledger = DatabaseLedger()
    _, everything = make_rule(LimitKind.REQUESTS_PER_DAY)
    _, tokens = make_rule(LimitKind.TOKENS_PER_DAY, key_id=key.pk)
    _, narrow = make_rule(LimitKind.REQUESTS_PER_DAY, key_id=key.pk, model_name="tiny")
    assert ledger.load_spent(everything, START, START + DAY) == 3
    assert ledger.load_spent(tokens, START, START + DAY) == 2200
    assert ledger.load_spent(narrow, START, START + DAY) == 1


def test_money_by_the_prices_of_its_time():
    set_price(PriceItem.INPUT_TOKENS, "2")
    set_price(PriceItem.OUTPUT_TOKENS, "10")
    set_price(PriceItem.CACHED_INPUT_TOKENS, "0.5", since=NOW + timedelta(hours=1))
    make_event()
    make_event(at=NOW + timedelta(hours=2))
    book, rule = make_rule(LimitKind.MONEY_PER_DAY, "12.5")
    assert rule.amount == round(12.5 / MONEY_UNIT)
    first = 1000 * 2 + 100 * 10
    second = 600 * 2 + 400 * 0.5 + 100 * 10
    spent = DatabaseLedger().load_spent(rule, START, START + DAY)
    assert spent * MONEY_UNIT == pytest.approx((first + second) / 1e6)
    assert book.rules == (rule,)
