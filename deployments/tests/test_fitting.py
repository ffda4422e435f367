"""Plans: what fits where, at which price, and why not elsewhere."""

from decimal import Decimal
from pathlib import Path

import pytest
from rest_framework.test import APIClient

from accounts.tests.make import NOW, make_key, make_organization
from chips.choices import PriceItem
from chips.models import Allocation, Node, PriceEntry
from deployments.tests.make import make_node
from models_registry.tests.make import make_revision

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> APIClient:
    found = APIClient()
    found.credentials(HTTP_AUTHORIZATION=f"Bearer {make_key(make_organization())}")
    return found


def plan(client: APIClient, revision, **asked):
    body = {"kind": "serve", "revision": str(revision.pk), "engine": "fake"} | asked
    return client.post("/api/v1/plans/", body, format="json")


def test_pools_are_ranked_by_room_and_price_and_the_others_say_why_not(
    client: APIClient, tmp_path: Path
) -> None:
    make_node("a", pool="cheap", accelerators=2)
    make_node("b", pool="dear", accelerators=4)
    make_node("c", pool="asleep", accelerators=4)
    Node.objects.filter(name="c").update(status="suspect")
    for pool, price in (("cheap", "0.10"), ("dear", "0.30")):
        PriceEntry.objects.create(
            item=PriceItem.ACCELERATOR_HOUR,
            pool=Node.objects.get(pool__name=pool).pool,
            unit_price=Decimal(price),
            valid_from=NOW,
        )
    revision = make_revision(tmp_path)
    answer = plan(client, revision, replicas=2, accelerators_per_replica=1)
    assert answer.status_code == 200, answer.json()
    cheap, dear, asleep = answer.json()["options"]
    assert [cheap["pool_name"], dear["pool_name"], asleep["pool_name"]] == [
        "cheap",
        "dear",
        "asleep",
    ]
    assert (cheap["replicas_now"], cheap["node_name"]) == (2, "a")
    assert Decimal(cheap["price_per_hour"]) == Decimal("0.10")
    assert Decimal(cheap["accelerators_per_replica"]) == 1
    assert (asleep["fits"], asleep["may_wait"]) == (False, True)
    assert "no heartbeats" in asleep["reasons"][0]
    assert not Allocation.objects.exists()

    more = plan(client, revision, replicas=3, accelerators_per_replica=1).json()["options"]
    assert [(each["pool_name"], each["replicas_now"]) for each in more] == [
        ("dear", 3),
        ("cheap", 2),
        ("asleep", 0),
    ]


def test_what_never_fits_says_so(client: APIClient, tmp_path: Path) -> None:
    make_node("a", accelerators=2)
    (option,) = plan(client, make_revision(tmp_path), accelerators_per_replica=3).json()["options"]
    assert (option["fits"], option["may_wait"]) == (False, False)
    assert "3 accelerators wanted" in option["reasons"][0]


def test_it_refuses_what_a_deployment_would_be_refused(client: APIClient, tmp_path: Path) -> None:
    revision = make_revision(tmp_path)
    for asked, field in (
        ({"engine": "nobody"}, "engine"),
        ({"settings": {"max_context_tokens": 1}}, "settings.max_context_tokens"),
        ({"pool_name": "nowhere"}, "pool_name"),
    ):
        answer = plan(client, revision, **asked)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_another_organizations_revision_is_not_there(client: APIClient, tmp_path: Path) -> None:
    other = make_revision(tmp_path, make_organization("logistics"))
    assert plan(client, other).status_code == 404
