import csv
import io

import pytest
from django.test import Client
from django.utils import timezone

from accounts.choices import Scope
from accounts.models import ApiKey
from accounts.tests.make import make_key, make_organization
from chips.choices import PriceItem
from usage.tests.make import make_event, make_price, tell

pytestmark = pytest.mark.django_db


def get(secret: str, path: str, **query: str):
    return Client().get(f"/api/v1/{path}", query, headers={"Authorization": f"Bearer {secret}"})


def tell_now(organization, **fields) -> None:
    tell(make_event(organization, at=timezone.now().timestamp(), **fields))


def test_usage_in_every_grouping() -> None:
    retail = make_organization()
    secret = make_key(retail)
    key = ApiKey.objects.get()
    tell_now(retail, key_id=str(key.pk), key_name="test")
    tell_now(retail, model_name="big")
    by_model = get(secret, "usage/", group_by="model").json()
    assert [row["group"] for row in by_model["results"]] == ["big", "tiny"]
    assert by_model["results"][0]["quantities"]["input_tokens"] == "100.000000"
    by_key = get(secret, "usage/", group_by="key").json()["results"]
    assert {row["name"] for row in by_key} == {"", "test"}
    by_item = get(secret, "usage/", group_by="item").json()["results"]
    assert {row["group"]: row["quantities"][row["group"]] for row in by_item} == {
        "requests": "2.000000",
        "input_tokens": "200.000000",
        "output_tokens": "20.000000",
    }
    hours = get(secret, "usage/", group_by="hour").json()["results"]
    assert sum(float(row["quantities"]["requests"]) for row in hours) == 2
    refused = get(secret, "usage/", group_by="colour")
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "group_by")
    assert get(secret, "usage/", **{"from": "soon"}).json()["error"]["field"] == "from"
    none = get(secret, "usage/", **{"from": "2020-01-01", "to": "2020-01-02"}).json()
    assert none["results"] == []
    assert none["end"] == "2020-01-03T00:00:00Z"


def test_a_statement_as_json_and_as_csv() -> None:
    retail = make_organization()
    secret = make_key(retail)
    make_price(PriceItem.INPUT_TOKENS, "10")
    tell_now(retail)
    found = get(secret, "statement/", month=f"{timezone.now():%Y-%m}").json()
    assert found["total"] == "0.001000"
    assert found["unpriced_items"] == ["output_tokens"]
    lines = {line["item"]: line for line in found["lines"]}
    assert lines["input_tokens"]["unit_price"] == "10.00000000"
    assert lines["output_tokens"]["amount"] is None
    answer = get(secret, "statement.csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert answer["Content-Type"].startswith("text/csv")
    assert rows[-1]["item"] == "total"
    assert rows[-1]["amount"] == "0.001000"
    assert get(secret, "statement/", month="soon").json()["error"]["field"] == "month"


def test_another_organization_sees_its_own_only() -> None:
    tell_now(make_organization())
    secret = make_key(make_organization("bank"))
    assert get(secret, "usage/").json()["results"] == []
    assert get(secret, "statement/").json()["lines"] == []
    inference_only = make_key(make_organization(), scopes=(Scope.INFERENCE,))
    assert get(inference_only, "statement/").status_code == 403
    assert Client().get("/api/v1/statement/").status_code == 401
