import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from accounts.choices import Role
from accounts.models import ApiKey, AuditEvent, Membership, Organization, Quota, User
from accounts.tests.make import make_key, make_member, make_organization

pytestmark = pytest.mark.django_db

MODELS = [ApiKey, AuditEvent, Membership, Organization, Quota, User]


@pytest.fixture
def staff() -> Client:
    User.objects.create_superuser("root", "root@example.com", "a-long-password")
    client = Client()
    assert client.login(username="root", password="a-long-password")
    return client


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_table_lists_searches_and_opens(model, staff: Client) -> None:
    retail = make_organization()
    make_member(retail, "ada")
    make_key(retail)
    Quota.objects.create(organization=retail, max_accelerators=2)
    assert admin.site.is_registered(model)
    start = f"admin:accounts_{model._meta.model_name}"
    assert staff.get(reverse(f"{start}_changelist"), {"q": "retail"}).status_code == 200
    row = model.objects.first()
    page = staff.get(reverse(f"{start}_change", args=[row.pk]))
    assert page.status_code == 200
    assert b"secret_hash" not in page.content


def test_keys_are_revoked_and_organizations_suspended_by_action(staff: Client) -> None:
    make_key(make_organization())
    key, retail = ApiKey.objects.get(), Organization.objects.get()
    for name, action, row in (("apikey", "revoke", key), ("organization", "suspend", retail)):
        staff.post(
            reverse(f"admin:accounts_{name}_changelist"),
            {"action": action, "_selected_action": [str(row.pk)]},
        )
        row.refresh_from_db()
    assert key.revoked_at
    assert retail.suspended_at
    assert {"api_key.revoke", "organization.suspend"} <= set(
        AuditEvent.objects.values_list("action", flat=True)
    )


def test_what_is_changed_in_the_admin_is_audited_without_secrets(staff: Client) -> None:
    make_member(make_organization(), "ada", Role.OWNER)
    retail = Organization.objects.get()
    quota = {"organization": str(retail.pk), "pool_name": "default", "max_accelerators": "3"}
    staff.post(reverse("admin:accounts_quota_add"), quota)
    assert Quota.objects.get().max_accelerators == 3
    event = AuditEvent.objects.get(action="quota.add")
    assert (event.organization, event.actor_name) == (retail, "root")
    assert event.after["max_accelerators"] == "3"
    staff.post(
        reverse("admin:accounts_user_add"),
        {
            "username": "bob",
            "usable_password": "true",
            "password1": "another-long-password",
            "password2": "another-long-password",
        },
    )
    assert User.objects.filter(username="bob").exists()
    added = AuditEvent.objects.get(action="user.add")
    assert "another-long-password" not in str(added.after)
