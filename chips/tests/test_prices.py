from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command

from accounts.models import AuditEvent
from accounts.tests.make import NOW, make_organization
from chips import selectors, services
from chips.models import PriceEntry
from chips.tests.make import make_card_type, make_cpu_type, make_pool
from common.errors import InvalidInput

pytestmark = pytest.mark.django_db

HOUR = "accelerator_hour"


def set_price(amount: str, *, item: str = HOUR, at: datetime = NOW, **scope: object) -> PriceEntry:
    return services.set_price(
        item=item,
        unit_price=Decimal(amount),
        valid_from=at,
        now=NOW,
        **scope,  # type: ignore[arg-type]
    )


def price(*, item: str = HOUR, at: datetime = NOW, **keys: str) -> Decimal | None:
    organization = make_organization(keys.pop("organization", "retail"))
    found = selectors.price_at(item=item, at=at, organization=organization, **keys)
    return found.unit_price if found else None


def test_the_most_specific_price_wins() -> None:
    retail, card, pool = make_organization(), make_card_type(), make_pool()
    make_cpu_type()
    set_price("1")
    set_price("2", accelerator_type=card)
    set_price("3", accelerator_type=card, pool=pool)
    set_price("0.5", organization=retail)
    bank = "bank"
    assert price(organization=bank) == 1
    assert price(organization=bank, accelerator_type_slug="generic-cpu-x86-64-host") == 1
    assert price(organization=bank, accelerator_type_slug=card.slug) == 2
    assert price(organization=bank, accelerator_type_slug=card.slug, pool_name="default") == 3
    assert price(accelerator_type_slug=card.slug, pool_name="default") == Decimal("0.5")
    assert price(item="input_tokens") is None


def test_a_models_own_token_price_comes_before_the_general_one() -> None:
    set_price("2", item="output_tokens")
    set_price("9", item="output_tokens", model_name="support")
    assert price(item="output_tokens", model_name="support") == 9
    assert price(item="output_tokens", model_name="other") == 2


def test_a_new_price_ends_the_one_before() -> None:
    first = set_price("1")
    later = NOW + timedelta(days=1)
    set_price("2", at=later)
    first.refresh_from_db()
    assert first.valid_until == later
    assert price(at=later - timedelta(seconds=1)) == 1
    assert price(at=later) == 2
    assert price(at=NOW - timedelta(seconds=1)) is None


def test_a_price_between_two_ends_where_the_next_begins() -> None:
    set_price("1")
    set_price("3", at=NOW + timedelta(days=10))
    between = set_price("2", at=NOW + timedelta(days=5))
    assert between.valid_until == NOW + timedelta(days=10)
    assert [price(at=NOW + timedelta(days=day)) for day in (4, 5, 9, 10)] == [1, 2, 2, 3]


def test_the_same_price_again_adds_nothing_and_another_at_once_is_refused() -> None:
    first = set_price("1")
    assert set_price("1", at=NOW + timedelta(days=1)) == first
    assert AuditEvent.objects.filter(action="price.set").count() == 1
    with pytest.raises(services.PriceExists):
        set_price("2")


@pytest.mark.parametrize(
    ("values", "at_fault"),
    [
        ({"item": "sun"}, "item"),
        ({"amount": "-1"}, "unit_price"),
        ({"amount": "NaN"}, "unit_price"),
        ({"currency": "usd"}, "currency"),
        ({"model_name": "support"}, "model_name"),
    ],
)
def test_what_is_no_price_is_refused(values: dict, at_fault: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        set_price(**{"amount": "1"} | values)
    assert refused.value.field == at_fault


def test_the_command_sets_prices_and_names_what_it_does_not_know() -> None:
    make_cpu_type()
    scope = ["--accelerator-type", "generic-cpu-x86-64-host", "--from", "2026-01-01T00:00:00+00:00"]
    for _ in range(2):
        call_command("set_price", HOUR, "0.08", *scope)
    assert price(accelerator_type_slug="generic-cpu-x86-64-host") == Decimal("0.08")
    assert PriceEntry.objects.count() == 1
    with pytest.raises(CommandError, match="pool"):
        call_command("set_price", HOUR, "1", "--pool", "none")
    with pytest.raises(CommandError, match="zone"):
        call_command("set_price", HOUR, "1", "--from", "2026-01-01")
