from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail

from accounts import limits
from accounts.choices import LimitKind, Role
from accounts.models import ApiKey, AuditEvent, Limit, LimitAlert
from accounts.tests.make import NOW, make_key, make_member, make_organization
from common.errors import InvalidInput, NotFound

pytestmark = pytest.mark.django_db

DAILY = limits.Wanted(kind=LimitKind.REQUESTS_PER_DAY, amount=Decimal(100))


def make_limit(**changes: Any) -> Limit:
    organization = make_organization()
    wanted = replace(DAILY, **changes)
    return limits.create_limit(organization=organization, wanted=wanted, now=NOW)


def test_a_limit_is_made_changed_and_removed_with_a_trace():
    row = make_limit()
    limits.change_limit(
        organization=row.organization, limit_id=row.pk, changes={"amount": Decimal(5)}, now=NOW
    )
    assert limits.get_limit(row.organization, row.pk).amount == 5
    limits.delete_limit(organization=row.organization, limit_id=row.pk, now=NOW)
    with pytest.raises(NotFound):
        limits.get_limit(row.organization, row.pk)
    actions = AuditEvent.objects.order_by("sequence").values_list("action", flat=True)
    assert set(actions) >= {"limit.create", "limit.change", "limit.delete"}


def test_there_is_one_limit_of_a_kind_for_the_same():
    make_limit()
    make_limit(model_name="tiny")
    with pytest.raises(limits.LimitExists) as refused:
        make_limit(amount=Decimal(7))
    assert refused.value.field == "kind"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "beauty"}, "kind"),
        ({"amount": Decimal(-1)}, "amount"),
        ({"amount": Decimal("1.5")}, "amount"),
        ({"amount": Decimal("NaN")}, "amount"),
        ({"kind": LimitKind.MONEY_PER_DAY, "amount": Decimal(10) ** 9}, "amount"),
        ({"warn_percent": 101}, "warn_percent"),
    ],
)
def test_what_is_no_limit_is_refused_with_its_field(changes, field):
    with pytest.raises(InvalidInput) as refused:
        make_limit(**changes)
    assert refused.value.field == field


def test_a_key_of_another_organization_is_not_there():
    make_key(make_organization("bank"))
    with pytest.raises(NotFound):
        make_limit(key_id=ApiKey.objects.get().pk)


def test_owners_and_admins_are_told_once_of_each_period():
    row = make_limit()
    make_member(row.organization, "ada", Role.OWNER)
    make_member(row.organization, "bob", Role.ADMIN)
    make_member(row.organization, "eve", Role.VIEWER)
    start = NOW.timestamp()
    for at in (start, start, (NOW + timedelta(days=1)).timestamp()):
        limits.warn(limit_id=row.pk, percent=80, period_start=at, now=NOW)
    assert LimitAlert.objects.of(row.organization).count() == 2
    assert sorted(each.to[0] for each in mail.outbox) == [
        "ada@example.com",
        "ada@example.com",
        "bob@example.com",
        "bob@example.com",
    ]
    assert "80 % of a limit is used" in mail.outbox[0].body


def test_an_alert_stands_though_no_mail_leaves(settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    row = make_limit()
    make_member(row.organization)
    assert limits.warn(limit_id=row.pk, percent=80, period_start=0, now=NOW) is not None


def test_limits_over_rest(client):
    organization = make_organization()
    headers = {"Authorization": f"Bearer {make_key(organization)}"}
    make_member(organization, "ada", Role.ADMIN)
    client.login(username="ada", password="a-long-password")
    body = {"kind": "money_per_month", "amount": "250.5", "model_name": "tiny"}
    made = client.post("/api/v1/limits/", body, content_type="application/json")
    assert made.status_code == 201, made.content
    again = client.post("/api/v1/limits/", body, content_type="application/json")
    assert (again.status_code, again.json()["error"]["field"]) == (409, "kind")
    path = f"/api/v1/limits/{made.json()['id']}/"
    changed = client.patch(path, {"warn_percent": None}, content_type="application/json")
    assert (changed.json()["amount"], changed.json()["warn_percent"]) == ("250.500000", None)
    listed = client.get("/api/v1/limits/", headers=headers).json()["results"]
    assert [each["model_name"] for each in listed] == ["tiny"]
    assert client.get("/api/v1/limit-alerts/").json()["results"] == []
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
