"""The ledger adds up: whatever comes, whenever, and however often, the sums are those of a model
that knows nothing of hours, seals, streams and databases."""

import random
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db.models import Sum

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from chips.choices import PriceItem
from usage import cost_centres, ingest, rollups, statements, stream
from usage.models import UsageRecord
from usage.tests.make import make_event, make_held, make_price, tell

pytestmark = pytest.mark.django_db

KEYS = [None, UUID(int=1), UUID(int=2), UUID(int=3)]
MODELS = ["tiny", "big", "chat"]
FIELDS = ("input_tokens", "cached_input_tokens", "output_tokens")


class Plain:
    """What should come out, counted as one would by hand."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.sums: Counter[tuple[str, ...]] = Counter()

    def add(self, event: stream.Event) -> None:
        if event["request_id"] in self.seen:
            return
        self.seen.add(event["request_id"])
        where = event["organization_id"], event["key_id"] or "", event["model_name"]
        batch = "batch_" if event.get("is_batch") else ""
        self.sums[*where, "requests"] += event["status_code"] < 400
        self.sums[*where, f"{batch}input_tokens"] += event["input_tokens"]
        self.sums[*where, f"{batch}output_tokens"] += event["output_tokens"]
        if not batch:
            self.sums[*where, "cached_input_tokens"] += event["cached_input_tokens"]


def random_event(chance: random.Random, organization: Organization, now: datetime) -> stream.Event:
    key = chance.choice(KEYS)
    late = timedelta(hours=chance.choice([0, 0, 0, 1, 2, 3, 5, 30]), minutes=chance.randrange(60))
    tokens = chance.randrange(5000)
    return make_event(
        organization,
        at=(now - late).timestamp(),
        key_id=str(key) if key else None,
        key_name=f"key {key.int}" if key else "",
        model_name=chance.choice(MODELS),
        deployment_name=chance.choice(["a", "b"]),
        status_code=chance.choice([200, 200, 200, 499]),
        is_batch=chance.random() < 0.2,
        input_tokens=tokens,
        cached_input_tokens=chance.randrange(tokens + 1),
        output_tokens=chance.randrange(500),
    )


def kept_sums() -> Counter[tuple[str, ...]]:
    rows = UsageRecord.objects.filter(accelerator_type_slug="").order_by()
    fields = ("organization", "key_id", "model_name", "item")
    return Counter(
        {
            (str(each[0]), str(each[1] or ""), *each[2:4]): int(each[4])
            for each in rows.values_list(*fields).annotate(Sum("quantity"))
        }
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sums_are_those_of_a_plain_model(seed: int) -> None:
    chance, plain, now = random.Random(seed), Plain(), NOW
    places = [make_organization(), make_organization("bank", time_zone="Asia/Shanghai")]
    told: list[stream.Event] = []
    sealed: dict[int, Any] = {}
    for _ in range(40):
        now += timedelta(minutes=chance.randrange(90))
        organization = chance.choice(places)
        match chance.choice(["tell", "tell", "again", "ingest", "roll", "roll", "centre"]):
            case "tell":
                events = [random_event(chance, organization, now) for _ in range(20)]
                told += events
                tell(*events)
                for event in events:
                    plain.add(event)
            case "again" if told:
                tell(*chance.choices(told, k=5))
            case "ingest":
                ingest.ingest(now=now)
            case "roll":
                rollups.roll_up_open(organization=organization, now=now)
            case "centre":
                cost_centres.set_cost_centre(
                    organization=organization,
                    code=chance.choice(["", "R1", "R2"]),
                    deployment_name=chance.choice(["", "a"]),
                    now=now,
                )
        for row in UsageRecord.objects.filter(sealed_at__isnull=False).values():
            assert sealed.setdefault(row["id"], row) == row, "a sealed record has changed"
        assert set(sealed) <= set(UsageRecord.objects.values_list("pk", flat=True))
    ingest.ingest(now=now)
    for later in (now, now + timedelta(days=1)):
        for organization in places:
            rollups.roll_up_open(organization=organization, now=later)
        assert kept_sums() == +plain.sums
    for organization in places:
        assert not rollups.list_differences(
            organization=organization,
            start=NOW - timedelta(days=3),
            end=now + timedelta(days=1),
            now=now + timedelta(days=1),
        )
    assert UsageRecord.objects.filter(of_hour__isnull=False).exists()


@pytest.mark.parametrize("seed", [4, 5])
def test_every_way_to_share_a_statement_adds_up_to_its_total(seed: int) -> None:
    chance, retail = random.Random(seed), make_organization()
    for item in PriceItem.values:
        price = str(Decimal(chance.randrange(1, 10**7)) / 10**5)
        make_price(item, price, valid_from=NOW - timedelta(days=90))
        price = str(Decimal(chance.randrange(1, 10**7)) / 10**5)
        make_price(item, price, valid_from=NOW, model_name=chance.choice(["", "big"]))
    cost_centres.set_cost_centre(
        organization=retail, code="R1", deployment_name="a", now=NOW - timedelta(hours=9)
    )
    tell(*[random_event(chance, retail, NOW + timedelta(hours=4)) for _ in range(200)])
    make_held(retail, held_at=NOW - timedelta(hours=3), seconds=chance.randrange(20_000))
    found = statements.statement(
        organization=retail,
        start=NOW - timedelta(days=9),
        end=NOW + timedelta(days=9),
        now=NOW + timedelta(hours=5),
    )
    assert found.total == sum(line.amount for line in found.lines if line.amount is not None) > 0
    for by in ("key", "model", "cost_centre", "day"):
        assert len(found.shares(by)) > 1
        assert sum(share.amounts.get("USD", 0) for share in found.shares(by)) == found.total
        for index, line in enumerate(found.lines):
            parts = [part for part in found.parts[by] if part.line == index]
            assert sum(part.quantity for part in parts) == line.quantity
            assert sum(part.amount or 0 for part in parts) == (line.amount or 0)
