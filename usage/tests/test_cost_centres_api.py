import pytest
from django.test import Client
from django.utils import timezone

from accounts.choices import Scope
from accounts.models import ApiKey, AuditEvent
from accounts.tests.make import make_key, make_organization
from usage.tests.make import make_event, tell

pytestmark = pytest.mark.django_db
PATH = "/api/v1/cost-centres/"


def put(secret: str, **body: object):
    return Client().put(
        PATH, body, content_type="application/json", headers={"Authorization": f"Bearer {secret}"}
    )


def get(secret: str, path: str = PATH, **query: str):
    return Client().get(path, query, headers={"Authorization": f"Bearer {secret}"}).json()


def test_a_keys_use_is_borne_by_its_cost_centre() -> None:
    retail = make_organization()
    secret = make_key(retail)
    key = ApiKey.objects.get()
    assert put(secret, code="R&D 客服", key_id=str(key.pk)).json()["key_id"] == str(key.pk)
    assert put(secret, code="Shop", deployment_name="tiny").status_code == 200
    assert put(secret, code="House").status_code == 200
    assert [row["code"] for row in get(secret)["results"]] == ["R&D 客服", "House", "Shop"]
    now = timezone.now().timestamp()
    tell(
        make_event(retail, at=now, key_id=str(key.pk)),
        make_event(retail, at=now),
        make_event(retail, at=now, deployment_name="other"),
    )
    shares = get(secret, "/api/v1/statement/", by="cost_centre")["shares"]
    assert {share["group"]: share["quantities"]["requests"] for share in shares} == dict.fromkeys(
        ["House", "R&D 客服", "Shop"], "1.000000"
    )


def test_an_empty_code_ends_one() -> None:
    secret = make_key(make_organization())
    put(secret, code="House")
    assert put(secret, code="").json()["code"] == ""
    assert put(secret, code="", deployment_name="never").status_code == 200
    assert get(secret)["results"] == []
    assert AuditEvent.objects.filter(action="cost_centre.set").count() == 2


def test_what_is_no_subject_is_refused() -> None:
    secret = make_key(make_organization())
    make_key(make_organization("bank"))
    theirs = str(ApiKey.objects.get(organization__slug="bank").pk)
    assert put(secret, code="x", key_id=theirs).json()["error"]["field"] == "key_id"
    assert put(secret, code="x" * 65).status_code == 400
    mine = str(ApiKey.objects.get(organization__slug="retail").pk)
    both = put(secret, code="x", key_id=mine, deployment_name="tiny")
    assert both.json()["error"]["field"] == "deployment_name"
    reader = make_key(make_organization(), scopes=(Scope.READ,))
    assert put(reader, code="x").status_code == 403
