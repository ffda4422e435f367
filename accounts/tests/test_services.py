from datetime import timedelta

import pytest

from accounts import audit, services
from accounts.choices import Role, Scope
from accounts.models import ApiKey, AuditEvent
from accounts.tests.make import NOW, make_key, make_member, make_organization
from common.errors import InvalidInput, NotFound

pytestmark = pytest.mark.django_db


def test_a_key_opens_its_organization_and_its_secret_is_nowhere_in_its_row() -> None:
    issued = services.issue_api_key(
        organization=make_organization(), name="ci", scopes=[Scope.READ], now=NOW
    )
    found = services.authenticate_api_key(issued.secret, now=NOW)
    assert found is not None
    assert found.organization.slug == "retail"
    row = ApiKey.objects.get()
    assert issued.secret not in str(row.__dict__)
    assert services.authenticate_api_key(issued.secret + "x", now=NOW) is None
    assert services.authenticate_api_key("sk-other", now=NOW) is None


def test_a_key_stops_when_it_expires_or_is_revoked_or_its_organization_is_suspended() -> None:
    retail = make_organization()
    expiring = make_key(retail, expires_at=NOW + timedelta(hours=1))
    assert services.authenticate_api_key(expiring, now=NOW + timedelta(hours=2)) is None
    secret = make_key(retail)
    key = services.authenticate_api_key(secret, now=NOW)
    assert key is not None
    services.revoke_api_key(organization=retail, key_id=key.pk, now=NOW)
    assert services.authenticate_api_key(secret, now=NOW) is None
    other = make_key(retail)
    retail.suspended_at = NOW
    retail.save()
    assert services.authenticate_api_key(other, now=NOW) is None


def test_another_organizations_key_cannot_be_revoked() -> None:
    secret = make_key(make_organization())
    key = services.authenticate_api_key(secret, now=NOW)
    assert key is not None
    with pytest.raises(NotFound):
        services.revoke_api_key(organization=make_organization("bank"), key_id=key.pk, now=NOW)


def test_a_key_that_operates_is_for_staff_to_make() -> None:
    with pytest.raises(InvalidInput) as refused:
        services.issue_api_key(
            organization=make_organization(), name="x", scopes=[Scope.OPERATE], now=NOW
        )
    assert refused.value.field == "scopes"


def test_the_last_owner_stays() -> None:
    retail = make_organization()
    ada = make_member(retail, "ada")
    with pytest.raises(services.LastOwner):
        services.remove_member(organization=retail, user=ada, now=NOW)
    make_member(retail, "bob", Role.OWNER)
    services.remove_member(organization=retail, user=ada, now=NOW)


def test_a_changed_audit_event_breaks_the_chain() -> None:
    retail = services.create_organization(slug="retail", name="Retail", now=NOW)
    make_member(retail, "ada")
    make_key(retail)
    assert audit.first_broken() is None
    victim = AuditEvent.objects.order_by("sequence")[1]
    AuditEvent.objects.filter(pk=victim.pk).update(after={"role": "viewer"})
    assert audit.first_broken() == victim.sequence


def test_a_bad_slug_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput) as refused:
        services.create_organization(slug="Not A Slug", name="x", now=NOW)
    assert refused.value.field == "slug"
