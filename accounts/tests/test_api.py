import pytest
from rest_framework.test import APIClient

from accounts.choices import Role, Scope
from accounts.models import ApiKey, AuditEvent, Membership, Organization
from accounts.tests.make import NOW, make_key, make_member, make_organization, make_user

pytestmark = pytest.mark.django_db


def client_with(secret: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


def client_of(slug: str = "retail", *scopes: str) -> APIClient:
    return client_with(make_key(make_organization(slug), scopes or (Scope.READ, Scope.WRITE)))


def signed_in(username: str) -> APIClient:
    client = APIClient()
    assert client.login(username=username, password="a-long-password")
    return client


def test_the_organization_and_what_one_may_do_in_it() -> None:
    body = client_of("retail", Scope.READ).get("/api/v1/organization/").json()
    assert (body["slug"], body["time_zone"]) == ("retail", "UTC")
    assert body["capabilities"] == ["view", "view_usage", "view_audit"]
    assert APIClient().get("/api/v1/organization/").status_code == 401


def test_a_keys_secret_is_shown_once_and_opens_the_api() -> None:
    client = client_of()
    made = client.post(
        "/api/v1/api-keys/", {"name": "ci", "scopes": ["read", "inference"]}, format="json"
    )
    assert made.status_code == 201
    assert made["Cache-Control"] == "no-store"
    secret = made.json()["secret"]
    assert client_with(secret).get("/api/v1/organization/").status_code == 200
    listed = client.get("/api/v1/api-keys/")
    assert secret not in listed.content.decode()
    row = next(each for each in listed.json()["results"] if each["name"] == "ci")
    assert row["scopes"] == ["inference", "read"]
    assert client.delete(f"/api/v1/api-keys/{row['id']}/").status_code == 204
    assert client_with(secret).get("/api/v1/organization/").status_code == 401
    assert client.get(f"/api/v1/api-keys/{row['id']}/").json()["revoked_at"]
    assert set(AuditEvent.objects.values_list("action", flat=True)) >= {
        "api_key.issue",
        "api_key.revoke",
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes"),
        ({"name": "x", "scopes": ["operate"]}, "scopes"),
        ({"scopes": ["read"]}, "name"),
        ({"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ],
)
def test_a_bad_key_request_names_its_field(body: dict, field: str) -> None:
    answer = client_of().post("/api/v1/api-keys/", body, format="json")
    assert answer.status_code == 400
    assert answer.json()["error"]["field"].startswith(field)


def test_a_key_that_only_reads_changes_nothing() -> None:
    client = client_of("retail", Scope.READ)
    key = ApiKey.objects.get()
    assert client.post("/api/v1/api-keys/", {"name": "x", "scopes": ["read"]}).status_code == 403
    assert client.delete(f"/api/v1/api-keys/{key.pk}/").status_code == 403
    assert client.post("/api/v1/members/", {}).status_code == 403
    inference = client_of("retail", Scope.INFERENCE)
    for path in ("organization", "api-keys", "members", "audit-events"):
        assert inference.get(f"/api/v1/{path}/").status_code == 403


def test_another_organization_finds_nothing() -> None:
    owner = client_of()
    make_member(make_organization(), "ada")
    key, member = ApiKey.objects.get(), Membership.objects.get()
    stranger = client_of("bank")
    for path in (f"/api/v1/api-keys/{key.pk}/", f"/api/v1/members/{member.pk}/"):
        assert owner.get(path).status_code == 200
        assert stranger.get(path).status_code == 404
        assert stranger.delete(path).status_code == 404
    change = stranger.patch(f"/api/v1/members/{member.pk}/", {"role": "viewer"}, format="json")
    assert change.status_code == 404
    assert stranger.get("/api/v1/members/").json()["count"] == 0
    assert [row["name"] for row in stranger.get("/api/v1/api-keys/").json()["results"]] == ["test"]
    events = stranger.get("/api/v1/audit-events/").json()["results"]
    assert {each["action"] for each in events} == {"api_key.issue"}
    key.refresh_from_db()
    assert key.revoked_at is None


def test_members_come_change_and_go() -> None:
    retail = make_organization()
    make_member(retail, "ada", Role.OWNER)
    make_user("bob")
    ada = signed_in("ada")
    made = ada.post("/api/v1/members/", {"username": "bob", "role": "viewer"}, format="json")
    assert made.status_code == 201, made.json()
    member = f"/api/v1/members/{made.json()['id']}/"
    again = ada.post("/api/v1/members/", {"username": "bob", "role": "admin"}, format="json")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "name_taken")
    nobody = ada.post("/api/v1/members/", {"username": "eve", "role": "viewer"}, format="json")
    assert (nobody.status_code, nobody.json()["error"]["field"]) == (400, "username")
    assert ada.patch(member, {"role": "developer"}, format="json").json()["role"] == "developer"
    assert [row["username"] for row in ada.get("/api/v1/members/").json()["results"]] == [
        "ada",
        "bob",
    ]
    assert ada.delete(member).status_code == 204
    assert ada.get(member).status_code == 404


def test_only_owners_make_and_remove_owners_and_the_last_one_stays() -> None:
    retail = make_organization()
    owner = Membership.objects.get(user=make_member(retail, "ada", Role.OWNER))
    admin = Membership.objects.get(user=make_member(retail, "bob", Role.ADMIN))
    bob, key, ada = signed_in("bob"), client_of(), signed_in("ada")
    for client in (bob, key):
        for member in (owner, admin):
            change = client.patch(f"/api/v1/members/{member.pk}/", {"role": "owner"}, format="json")
            assert change.status_code == 403
        assert client.delete(f"/api/v1/members/{owner.pk}/").status_code == 403
    last = ada.delete(f"/api/v1/members/{owner.pk}/")
    assert (last.status_code, last.json()["error"]["code"]) == (409, "last_owner")
    up = ada.patch(f"/api/v1/members/{admin.pk}/", {"role": "owner"}, format="json")
    assert up.json()["role"] == "owner"
    assert ada.delete(f"/api/v1/members/{owner.pk}/").status_code == 204


def test_viewers_do_not_manage() -> None:
    retail = make_organization()
    make_member(retail, "ada", Role.VIEWER)
    viewer = signed_in("ada")
    assert viewer.get("/api/v1/members/").status_code == 200
    assert viewer.post("/api/v1/api-keys/", {"name": "x", "scopes": ["read"]}).status_code == 403
    assert viewer.get("/api/v1/audit-events/").status_code == 403


def test_audit_events_are_found_by_action() -> None:
    client = client_of()
    client.post("/api/v1/api-keys/", {"name": "ci", "scopes": ["read"]}, format="json")
    events = client.get("/api/v1/audit-events/", {"action": "api_key.issue"}).json()
    assert events["count"] == 2
    newest = events["results"][0]
    assert (newest["object_name"], newest["actor_kind"]) == ("ci", "api_key")
    assert client.get("/api/v1/audit-events/", {"action": "x.y"}).json()["count"] == 0


def test_a_suspended_organization_is_closed_to_its_members_and_open_to_staff() -> None:
    organization = make_organization()
    member, staff = make_member(organization), make_user("operator", is_staff=True)
    Organization.objects.filter(pk=organization.pk).update(suspended_at=NOW)
    client = APIClient()
    client.force_login(member)
    assert client.get("/api/v1/organization/").status_code == 404
    client.force_login(staff)
    assert client.get("/api/v1/organization/").status_code == 200


def test_a_query_that_no_row_can_hold_is_refused_by_name() -> None:
    answer = client_of().get("/api/v1/audit-events/?action=%00")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "action")


def test_the_schema_tells_how_every_operation_refuses() -> None:
    schema = APIClient().get("/api/v1/schema/", HTTP_ACCEPT="application/json").json()
    operations = [each for path in schema["paths"].values() for each in path.values()]
    assert len(operations) > 40
    for operation in operations:
        assert {"401", "403"} <= set(operation["responses"]), operation["operationId"]
    assert "ErrorBody" in schema["components"]["schemas"]
