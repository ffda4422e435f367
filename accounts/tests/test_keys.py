from datetime import timedelta

import pytest

from accounts import keys, services
from accounts.choices import Scope
from accounts.models import ApiKey, AuditEvent
from accounts.networks import is_within, parse_networks
from accounts.tests.make import NOW, make_key, make_organization
from accounts.tests.test_api import client_of, client_with
from common.errors import InvalidInput, NotAllowed, NotFound

pytestmark = pytest.mark.django_db


def opens(secret: str, **after: int) -> bool:
    return services.authenticate_api_key(secret, now=NOW + timedelta(**after)) is not None


def rotate(secret: str, *, now=NOW, **options):
    row = ApiKey.objects.get(prefix=services.prefix_of(secret))
    return keys.rotate_api_key(organization=row.organization, key_id=row.pk, now=now, **options)


def test_after_a_rotation_both_secrets_open_the_same_key_until_the_overlap_ends() -> None:
    first = make_key(make_organization())
    issued = rotate(first, overlap=timedelta(hours=1))
    old = services.authenticate_api_key(first, now=NOW)
    assert old is not None
    assert old.pk == issued.row.pk
    assert opens(first, minutes=59)
    assert opens(issued.secret, minutes=59)
    assert not opens(first, hours=1)
    assert opens(issued.secret, days=400)
    assert issued.secret not in str(issued.row.__dict__)


def test_an_overlap_of_zero_ends_both_earlier_secrets_at_once() -> None:
    first = make_key(make_organization())
    second = rotate(first).secret
    with pytest.raises(keys.PreviousSecretLives):
        rotate(second)
    third = rotate(second, overlap=timedelta()).secret
    assert [opens(each) for each in (first, second, third)] == [False, False, True]


def test_a_rotated_key_has_its_lifetime_again_and_the_old_secret_never_more_than_it_had() -> None:
    first = make_key(make_organization(), expires_at=NOW + timedelta(days=30))
    later = NOW + timedelta(days=29, hours=20)
    second = rotate(first, now=later, overlap=timedelta(days=5)).secret
    assert not opens(first, days=30)
    assert opens(second, days=59)
    assert not opens(second, days=60)
    third = rotate(second, now=NOW + timedelta(days=40)).secret
    assert opens(third, days=69)
    assert not opens(third, days=71)


def test_a_revoked_key_has_no_secret_that_opens_and_none_is_made() -> None:
    first = make_key(make_organization())
    issued = rotate(first)
    services.revoke_api_key(organization=issued.row.organization, key_id=issued.row.pk, now=NOW)
    assert not opens(first)
    assert not opens(issued.secret)
    with pytest.raises(keys.KeyNotLive):
        rotate(issued.secret)


@pytest.mark.parametrize(
    ("address", "is_inside"),
    [
        ("10.200.0.1", True),
        ("11.0.0.1", False),
        ("::ffff:10.0.0.1", True),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("", False),
        ("testserver", False),
    ],
)
def test_an_address_lies_within_networks_or_not(address: str, is_inside: bool) -> None:
    assert is_within(address, parse_networks(["10.0.0.0/8", "2001:db8::/32"])) is is_inside


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0", "example.com", "::/200", ""])
def test_what_is_no_network_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_networks([text])
    assert refused.value.field == "allowed_networks"


def test_a_key_bound_to_networks_is_refused_elsewhere() -> None:
    retail = make_organization()
    inside = make_key(retail, allowed_networks=["127.0.0.0/8"])
    outside = make_key(retail, allowed_networks=["192.0.2.0/24"])
    assert client_with(inside).get("/api/v1/organization/").status_code == 200
    refused = client_with(outside).get("/api/v1/organization/")
    assert refused.status_code == 403
    assert "127.0.0.1" in refused.json()["error"]["message"]


def test_over_rest_a_key_is_changed_rotated_and_its_previous_secret_ended() -> None:
    client = client_of()
    made = client.post("/api/v1/api-keys/", {"name": "ci", "scopes": ["read"]}, format="json")
    url = f"/api/v1/api-keys/{made.json()['id']}/"
    changed = client.patch(
        url,
        {"name": "nightly", "allowed_networks": ["127.0.0.1"], "allowed_models": ["m"]},
        format="json",
    )
    assert changed.status_code == 200
    assert changed.json()["allowed_networks"] == ["127.0.0.1/32"]
    assert (changed.json()["name"], changed.json()["scopes"]) == ("nightly", ["read"])
    refused = client.patch(url, {"allowed_networks": ["10.0.0.1/8"]}, format="json")
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "allowed_networks")

    rotated = client.post(f"{url}rotate/", {"overlap_seconds": 600}, format="json")
    assert (rotated.status_code, rotated["Cache-Control"]) == (201, "no-store")
    first, second = made.json()["secret"], rotated.json()["secret"]
    organization = "/api/v1/organization/"
    assert [client_with(each).get(organization).status_code for each in (first, second)] == [
        200,
        200,
    ]
    again = client.post(f"{url}rotate/", {}, format="json")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "previous_secret_lives")
    assert client.delete(f"{url}previous-secret/").status_code == 204
    assert [client_with(each).get(organization).status_code for each in (first, second)] == [
        401,
        200,
    ]
    too_long = client.post(f"{url}rotate/", {"overlap_seconds": 10**8}, format="json")
    assert (too_long.status_code, too_long.json()["error"]["field"]) == (400, "overlap_seconds")
    told = set(AuditEvent.objects.values_list("action", flat=True))
    assert told >= {"api_key.change", "api_key.rotate", "api_key.end_previous"}
    assert second not in str(list(AuditEvent.objects.values_list("after", "before")))


def test_only_staff_gets_at_a_key_that_operates() -> None:
    secret = make_key(make_organization(), (Scope.OPERATE,))
    row = ApiKey.objects.get()
    with pytest.raises(NotAllowed):
        rotate(secret)
    with pytest.raises(NotAllowed):
        keys.change_api_key(
            organization=row.organization, key_id=row.pk, changes={"name": "x"}, now=NOW
        )
    assert rotate(secret, may_operate=True).secret
    plain = make_key(make_organization(), (Scope.READ,))
    widened = ApiKey.objects.get(prefix=services.prefix_of(plain))
    with pytest.raises(InvalidInput) as refused:
        keys.change_api_key(
            organization=row.organization,
            key_id=widened.pk,
            changes={"scopes": ["operate"]},
            now=NOW,
        )
    assert refused.value.field == "scopes"


def test_another_organizations_key_is_not_there() -> None:
    make_key(make_organization())
    row = ApiKey.objects.get()
    bank = make_organization("bank")
    with pytest.raises(NotFound):
        keys.rotate_api_key(organization=bank, key_id=row.pk, now=NOW)
    with pytest.raises(NotFound):
        keys.change_api_key(organization=bank, key_id=row.pk, changes={}, now=NOW)
