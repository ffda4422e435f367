from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from accounts import services
from accounts.models import ApiKey
from accounts.tests.make import NOW, make_key, make_organization
from chips.choices import PriceItem
from common.errors import InvalidInput
from usage import periods, statements
from usage.tests.make import make_event, make_held, make_price, tell

pytestmark = pytest.mark.django_db
DAY = (NOW - timedelta(hours=12), NOW + timedelta(hours=12))


def statement(organization, *, now=NOW + timedelta(minutes=1), start=DAY[0], end=DAY[1]):
    return statements.statement(organization=organization, start=start, end=end, now=now)


def line_of(found, item, **fields):
    (line,) = [
        line
        for line in found.lines
        if line.what.item == item
        and all(getattr(line.what, name) == value for name, value in fields.items())
    ]
    return line


def test_a_statement_agrees_at_once_with_what_was_answered_and_adds_up() -> None:
    retail = make_organization()
    make_price(PriceItem.INPUT_TOKENS, "0.10")
    make_price(PriceItem.OUTPUT_TOKENS, "0.40")
    make_price(PriceItem.ACCELERATOR_HOUR, "0.12")
    tell(*[make_event(retail, input_tokens=1_000, output_tokens=500) for _ in range(3)])
    make_held(retail, held_at=NOW - timedelta(hours=2), seconds=5400, share="2")
    found = statement(retail)
    assert line_of(found, "requests").quantity == 3
    assert line_of(found, "input_tokens").quantity == 3000
    assert line_of(found, "input_tokens").amount == Decimal("0.0003")
    assert line_of(found, "output_tokens").amount == Decimal("0.0006")
    assert line_of(found, "accelerator_seconds").amount == Decimal("0.36")
    assert found.total == Decimal("0.3609") == sum(line.amount or 0 for line in found.lines)
    assert (found.currency, found.unpriced, found.is_final) == ("USD", [], False)
    again = statement(retail, now=NOW + timedelta(days=1))
    assert [line.amount for line in again.lines] == [line.amount for line in found.lines]
    assert again.is_final


def test_what_has_no_price_is_shown_and_not_invented() -> None:
    retail = make_organization()
    make_price(PriceItem.INPUT_TOKENS, "0.10")
    tell(make_event(retail))
    found = statement(retail)
    assert [line.what.item for line in found.unpriced] == ["output_tokens"]
    assert line_of(found, "output_tokens").amount is None
    assert found.total == Decimal("0.00001")


def test_each_hour_has_the_price_that_was_valid_in_it() -> None:
    retail = make_organization()
    noon = NOW.replace(minute=0)
    make_price(PriceItem.ACCELERATOR_HOUR, "1", valid_until=noon)
    make_price(PriceItem.ACCELERATOR_HOUR, "3", valid_from=noon)
    make_held(retail, held_at=noon - timedelta(hours=2), seconds=3 * 3600)
    found = statement(retail, now=noon + timedelta(hours=2))
    assert [(line.unit_price, line.amount) for line in found.lines] == [(1, 2), (3, 3)]


def test_a_price_that_begins_within_an_hour_holds_for_that_hour_if_there_was_none() -> None:
    retail = make_organization()
    make_price(PriceItem.INPUT_TOKENS, "5", valid_from=NOW + timedelta(minutes=20))
    tell(make_event(retail), make_event(retail, at=(NOW - timedelta(hours=1)).timestamp()))
    found = statement(retail)
    priced = [line.unit_price for line in found.lines if line.what.item == "input_tokens"]
    assert priced == [None, Decimal(5)]


def test_an_organizations_own_price_and_a_models_own_price_come_first() -> None:
    retail, bank = make_organization(), make_organization("bank")
    make_price(PriceItem.INPUT_TOKENS, "10")
    make_price(PriceItem.INPUT_TOKENS, "20", model_name="big")
    make_price(PriceItem.INPUT_TOKENS, "7", organization=bank)
    for organization in (retail, bank):
        tell(make_event(organization), make_event(organization, model_name="big"))
    of_retail, of_bank = statement(retail), statement(bank)
    assert line_of(of_retail, "input_tokens", model_name="tiny").unit_price == 10
    assert line_of(of_retail, "input_tokens", model_name="big").unit_price == 20
    assert line_of(of_bank, "input_tokens", model_name="big").unit_price == 7


def test_cached_tokens_cost_less_only_where_the_price_book_says_so() -> None:
    retail = make_organization()
    make_price(PriceItem.INPUT_TOKENS, "10")
    tell(make_event(retail, input_tokens=1000, cached_input_tokens=400))
    assert statement(retail).total == Decimal("0.01")
    make_price(PriceItem.CACHED_INPUT_TOKENS, "1")
    found = statement(retail)
    assert line_of(found, "input_tokens").quantity == 600
    assert line_of(found, "cached_input_tokens").quantity == 400
    assert found.total == Decimal("0.0064")


def test_internal_keys_are_told_apart() -> None:
    retail = make_organization()
    make_key(retail)
    services.issue_api_key(
        organization=retail, name="evaluation", scopes=["inference"], is_internal=True, now=NOW
    )
    for key in ApiKey.objects.all():
        tell(make_event(retail, key_id=str(key.pk), key_name=key.name))
    keys = statement(retail).keys
    assert [(use.key_name, use.is_internal, use.requests, use.input_tokens) for use in keys] == [
        ("test", False, 1, 100),
        ("evaluation", True, 1, 100),
    ]


def test_months_are_those_of_the_organizations_place() -> None:
    retail = make_organization(time_zone="Asia/Shanghai")
    start, end = periods.month(retail, "2026-12")
    assert start == datetime(2026, 11, 30, 16, tzinfo=UTC)
    assert end == datetime(2026, 12, 31, 16, tzinfo=UTC)
    for wrong in ("2026-13", "26-1", "x", "2026-1"):
        with pytest.raises(InvalidInput):
            periods.month(retail, wrong)
