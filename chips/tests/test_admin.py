from decimal import Decimal

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEvent, Organization, User
from accounts.tests.make import NOW, make_organization
from chips import models, services
from chips.models import AcceleratorType, Node, Pool, PoolGrant, PriceEntry
from chips.tests.make import make_allocation, make_node

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff() -> Client:
    User.objects.create_superuser("root", "root@example.com", "a-long-password")
    client = Client()
    assert client.login(username="root", password="a-long-password")
    return client


@pytest.mark.parametrize("name", models.__all__)
def test_every_table_lists_searches_and_opens(name: str, staff: Client) -> None:
    model = getattr(models, name)
    make_node()
    make_allocation()
    services.grant_pool(pool=Pool.objects.get(), organization=Organization.objects.get(), now=NOW)
    services.set_price(item="input_tokens", unit_price=Decimal(1), valid_from=NOW, now=NOW)
    services.set_allowance(item="input_tokens", quantity=Decimal(1), valid_from=NOW, now=NOW)
    assert admin.site.is_registered(model)
    start = f"admin:chips_{model._meta.model_name}"
    assert staff.get(reverse(f"{start}_changelist"), {"q": "node"}).status_code == 200
    row = model.objects.first()
    assert staff.get(reverse(f"{start}_change", args=[row.pk])).status_code == 200


def test_nodes_are_cordoned_by_action(staff: Client) -> None:
    node = make_node()
    for action, is_cordoned in (("cordon", True), ("uncordon", False)):
        staff.post(
            reverse("admin:chips_node_changelist"),
            {"action": action, "_selected_action": [str(node.pk)]},
        )
        assert (Node.objects.get().cordoned_at is not None) == is_cordoned
    assert AuditEvent.objects.filter(action="node.cordon", actor_name="root").count() == 1


def price(**change: str) -> dict[str, str]:
    return {
        "item": "accelerator_hour",
        "unit_price": "2",
        "currency": "USD",
        "model_name": "",
        "valid_from_0": "2026-11-23",
        "valid_from_1": "12:00:00",
        "note": "",
    } | change


def test_a_price_is_added_by_the_same_rules_as_elsewhere(staff: Client) -> None:
    make_node()
    add = reverse("admin:chips_priceentry_add")
    scope = {"accelerator_type": str(AcceleratorType.objects.get().pk)}
    assert staff.post(add, price(**scope)).status_code == 302
    assert staff.post(add, price(**scope, unit_price="3", valid_from_0="2026-11-24")).status_code
    first, second = PriceEntry.objects.order_by("valid_from")
    assert first.valid_until == second.valid_from
    again = staff.post(add, price(**scope, unit_price="4"))
    assert again.status_code == 200
    assert b"Another price starts" in again.content
    assert b"priced by type and pool" in staff.post(add, price(model_name="m")).content
    assert PriceEntry.objects.count() == 2
    assert AuditEvent.objects.filter(action="price.set", actor_name="root").count() == 2
    change = reverse("admin:chips_priceentry_change", args=[first.pk])
    assert b'name="_save"' not in staff.get(change).content


def test_a_pool_is_made_and_granted_on_one_page(staff: Client) -> None:
    bank = make_organization("bank")
    counts = {"TOTAL_FORMS": "1", "INITIAL_FORMS": "0"}
    body = {"name": "cards", "description": "", "region": ""}
    body |= {f"grants-{name}": value for name, value in counts.items()}
    body |= {"nodes-TOTAL_FORMS": "0", "nodes-INITIAL_FORMS": "0"}
    body |= {"grants-0-organization": str(bank.pk)}
    assert staff.post(reverse("admin:chips_pool_add"), body).status_code == 302
    grant = PoolGrant.objects.get()
    assert (grant.pool.name, grant.organization, grant.pool.is_open) == ("cards", bank, False)
    actions = set(AuditEvent.objects.values_list("action", flat=True))
    assert {"pool.add", "poolgrant.add"} <= actions
