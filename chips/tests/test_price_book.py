"""The price book read once says what the database would say each time."""

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from chips import selectors
from chips.choices import PriceItem
from chips.models import PriceEntry
from chips.price_book import PriceBook
from chips.tests.make import make_card_type, make_cpu_type, make_pool

pytestmark = pytest.mark.django_db

ITEMS = (PriceItem.INPUT_TOKENS, PriceItem.ACCELERATOR_HOUR)
MODELS = ("", "tiny", "big")
DAYS = 20


@pytest.mark.parametrize("seed", range(3))
def test_a_book_read_once_says_what_the_database_says(seed: int) -> None:
    chance = random.Random(seed)
    organizations = [make_organization(), make_organization("bank")]
    kinds = [None, make_cpu_type(), make_card_type()]
    pools = [None, make_pool("default"), make_pool("other")]
    for number in range(40):
        begins_at = some_time(chance)
        PriceEntry.objects.create(
            item=chance.choice(ITEMS),
            unit_price=Decimal(number),
            accelerator_type=chance.choice(kinds),
            pool=chance.choice(pools),
            model_name=chance.choice(MODELS),
            organization=chance.choice([None, *organizations]),
            valid_from=begins_at,
            valid_until=chance.choice([None, begins_at + timedelta(days=chance.randint(1, 9))]),
        )
    found = [
        ask(chance, organization, PriceBook(organization))
        for organization in organizations
        for _ in range(60)
    ]
    assert None in found  # the histories have gaps,
    assert len(set(found)) > 10  # and many entries that win somewhere


def ask(chance: random.Random, organization: Organization, book: PriceBook) -> Decimal | None:
    """The same of both; now and then at the very moment at which a price changes."""
    at = chance.choice([some_time(chance), chance.choice(book.changes())])
    question: dict[str, Any] = {
        "item": chance.choice(ITEMS),
        "at": at,
        "accelerator_type_slug": chance.choice(["", "nvidia-l20", "generic-cpu-x86-64-host"]),
        "pool_name": chance.choice(["", "default", "other"]),
        "model_name": chance.choice([*MODELS, "unknown"]),
    }
    here = book.at(**question)
    there = selectors.price_at(organization=organization, **question)
    assert here == there, question
    return here.unit_price if here else None


def some_time(chance: random.Random) -> datetime:
    return NOW - timedelta(hours=chance.randrange(DAYS * 24))
