import time
from decimal import Decimal

import pytest
from django.conf import settings
from django.test import Client
from redis import Redis

from accounts import limits
from accounts.choices import LimitKind, Role
from accounts.limit_periods import MONEY_UNIT, counter_key, period_of
from accounts.models import Limit
from accounts.tests.make import NOW, make_key, make_member, make_organization

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada(client: Client) -> Client:
    client.force_login(make_member(make_organization(), "ada", Role.ADMIN))
    return client


def make_limit(kind: str, amount: str) -> Limit:
    wanted = limits.Wanted(kind=kind, amount=Decimal(amount))
    return limits.create_limit(organization=make_organization(), wanted=wanted, now=NOW)


def count(row: Limit, *, spent: int, held: int) -> None:
    """As gateways would."""
    start, _ = period_of(LimitKind(row.kind).period, at=time.time(), time_zone="UTC")
    client = Redis.from_url(settings.REDIS_URL)
    client.hset(counter_key(row.pk, start), mapping={"spent": spent, "h:one": held})
    client.close()


def test_without_limits_the_page_says_what_they_are_for(ada):
    page = ada.get("/limits/").content.decode()
    assert "No limits yet" in page
    assert "/limits/new/" in page


def test_a_limit_is_set_changed_and_removed(ada):
    make_key(make_organization())
    asked = {"kind": "money_per_month", "amount": "250", "warn_percent": "90"}
    assert ada.post("/limits/new/", asked).status_code == 302
    again = ada.post("/limits/new/", asked)
    assert again.status_code == 422
    assert "There is such a limit" in again.content.decode()
    row = Limit.objects.get()
    assert (row.amount, row.warn_percent) == (Decimal(250), 90)
    assert (row.key, row.model_name) == (None, "")
    ada.post(f"/limits/{row.pk}/", {"amount": "300", "warn_percent": ""})
    row.refresh_from_db()
    assert (row.amount, row.warn_percent) == (Decimal(300), None)
    ada.post(f"/limits/{row.pk}/remove/")
    assert not Limit.objects.exists()


def test_what_is_used_is_shown_and_told_by_rest(ada):
    money = make_limit(LimitKind.MONEY_PER_MONTH, "200")
    requests = make_limit(LimitKind.REQUESTS_PER_DAY, "1000")
    make_limit(LimitKind.TOKENS_PER_DAY, "5")
    count(money, spent=round(150 / MONEY_UNIT), held=round(20 / MONEY_UNIT))
    count(requests, spent=12, held=3)
    page = ada.get("/limits/").content.decode()
    assert "15 of 1,000" in page
    assert "85 %" in page
    assert "of 5: counted from the next request on" in page
    told = {each["kind"]: each for each in ada.get("/api/v1/limits/").json()["results"]}
    assert told["requests_per_day"]["used"] == "15"
    assert Decimal(told["money_per_month"]["used"]) == 170
    assert told["tokens_per_day"]["used"] is None
    assert told["requests_per_day"]["resets_at"] is not None


def test_warnings_are_listed(ada):
    row = make_limit(LimitKind.REQUESTS_PER_DAY, "1000")
    limits.warn(limit_id=row.pk, percent=80, period_start=NOW.timestamp(), now=NOW)
    assert "80 % used: Requests a day" in ada.get("/limits/").content.decode()


def test_viewers_see_limits_and_change_none(client):
    client.force_login(make_member(make_organization(), "eve", Role.VIEWER))
    row = make_limit(LimitKind.REQUESTS_PER_DAY, "1000")
    assert "Remove" not in client.get("/limits/").content.decode()
    assert client.post(f"/limits/{row.pk}/remove/").status_code == 403
    assert Limit.objects.exists()
