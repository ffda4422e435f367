"""What is free in a month."""

from datetime import timedelta
from decimal import Decimal

import pytest

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from chips.choices import PriceItem
from chips.models import FreeAllowance
from usage import periods, statements
from usage.choices import Item
from usage.tests.make import make_event, make_price, tell

pytestmark = pytest.mark.django_db

MONTH = f"{NOW:%Y-%m}"
SHORT = Decimal("0.0001")  # million tokens: a hundred


def make_allowance(million: Decimal, **fields: object) -> FreeAllowance:
    values = {"item": PriceItem.INPUT_TOKENS, "valid_from": NOW - timedelta(days=60)}
    return FreeAllowance.objects.create(quantity=million, **values | fields)


def of_month(organization: Organization) -> statements.Statement:
    start, end = periods.month(organization, MONTH)
    return statements.statement(organization=organization, start=start, end=end, now=NOW)


def free_by_model(organization: Organization) -> dict[str, Decimal]:
    lines = of_month(organization).lines
    return {
        line.what.model_name: line.free_quantity
        for line in lines
        if line.what.item == Item.INPUT_TOKENS
    }


@pytest.fixture
def retail() -> Organization:
    make_price(PriceItem.INPUT_TOKENS, "10")
    return make_organization()


def test_what_is_free_is_not_owed(retail: Organization) -> None:
    make_allowance(SHORT)
    tell(make_event(retail, input_tokens=250))
    found = of_month(retail)
    assert free_by_model(retail) == {"tiny": 100}
    assert found.total == Decimal("0.0015")  # 150 tokens at 10 a million
    for by in ("key", "model", "cost_centre", "day"):
        assert sum(share.amounts.get("USD", 0) for share in found.shares(by)) == found.total


def test_no_more_is_free_than_was_used(retail: Organization) -> None:
    make_allowance(Decimal(1))
    tell(make_event(retail))
    assert free_by_model(retail) == {"tiny": 100}
    assert of_month(retail).total == 0


def test_one_for_a_model_is_for_that_alone_and_comes_first(retail: Organization) -> None:
    make_allowance(SHORT)
    make_allowance(SHORT, model_name="tiny")
    tell(make_event(retail, input_tokens=150), make_event(retail, model_name="z", input_tokens=500))
    assert free_by_model(retail) == {"tiny": 150, "z": 50}


def test_an_organizations_own_replaces_those_for_all(retail: Organization) -> None:
    make_allowance(SHORT)
    make_allowance(SHORT / 10, organization=retail)
    bank = make_organization("bank")
    tell(make_event(retail), make_event(bank))
    assert free_by_model(retail) == {"tiny": Decimal(10)}
    assert free_by_model(bank) == {"tiny": Decimal(100)}


def test_what_is_used_first_in_the_month_is_free_first(retail: Organization) -> None:
    make_allowance(SHORT)
    make_price(PriceItem.INPUT_TOKENS, "1000", valid_from=NOW - timedelta(hours=3))
    early = (NOW - timedelta(hours=6)).timestamp()
    tell(make_event(retail), make_event(retail, at=early))
    assert of_month(retail).total == Decimal("0.1")  # the early ones were free


def test_one_that_has_ended_frees_nothing(retail: Organization) -> None:
    make_allowance(SHORT, valid_until=NOW - timedelta(days=40))
    tell(make_event(retail))
    assert free_by_model(retail) == {"tiny": 0}


def test_a_span_that_is_no_month_has_nothing_free(retail: Organization) -> None:
    make_allowance(SHORT)
    tell(make_event(retail))
    found = statements.statement(
        organization=retail, start=NOW - timedelta(days=1), end=NOW + timedelta(hours=1), now=NOW
    )
    assert found.total == Decimal("0.001")
