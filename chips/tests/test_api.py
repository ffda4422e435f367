from datetime import timedelta

import pytest
from rest_framework.test import APIClient

from accounts.choices import Scope
from accounts.models import AuditEvent
from accounts.tests.make import NOW, make_key, make_organization
from chips import services
from chips.models import Node, PriceEntry
from chips.tests.make import make_allocation, make_card_type, make_node, make_pool
from common.ids import new_id
from planner.placement import AcceleratorRequest

pytestmark = pytest.mark.django_db


def client_of(slug: str = "retail", *scopes: str) -> APIClient:
    secret = make_key(make_organization(slug), scopes or (Scope.READ, Scope.WRITE))
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


def operator() -> APIClient:
    return client_of("platform", Scope.OPERATE)


def test_tenants_read_the_pools_they_may_use_and_how_full_they_are() -> None:
    make_node()
    secret = make_pool("secret", is_open=False)
    make_allocation(request=AcceleratorRequest(slots=2))
    tenant = client_of()
    (pool,) = tenant.get("/api/v1/pools/").json()["results"]
    assert pool["name"] == "default"
    assert pool["use"] == {
        "nodes": 1,
        "nodes_ready": 1,
        "accelerators": 2,
        "accelerators_healthy": 2,
        "accelerators_held": "0.5000",
    }
    assert tenant.get(f"/api/v1/pools/{pool['id']}/").json() == pool
    assert tenant.get(f"/api/v1/pools/{secret.pk}/").status_code == 404
    assert operator().get("/api/v1/pools/").json()["count"] == 2


def test_operators_make_change_and_grant_pools() -> None:
    make_organization("bank")
    client = operator()
    made = client.post("/api/v1/pools/", {"name": "cards", "is_open": False}, format="json")
    assert made.status_code == 201
    path = f"/api/v1/pools/{made.json()['id']}/"
    again = client.post("/api/v1/pools/", {"name": "cards"}, format="json")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "pool_exists")
    assert client.post("/api/v1/pools/", {"name": "a b"}, format="json").status_code == 400
    changed = client.patch(path, {"region": "eu-1"}, format="json").json()
    assert (changed["region"], changed["is_open"]) == ("eu-1", False)
    bank = client_of("bank")
    assert bank.get(path).status_code == 404
    assert client.put(f"{path}grants/bank/").json()["organization"] == "bank"
    assert client.put(f"{path}grants/bank/").status_code == 200
    assert bank.get(path).status_code == 200
    assert client.get(f"{path}grants/").json()["count"] == 1
    assert client.delete(f"{path}grants/bank/").status_code == 204
    assert bank.get(path).status_code == 404
    assert client.put(f"{path}grants/nobody/").status_code == 404
    actions = AuditEvent.objects.filter(action__startswith="pool.").order_by("sequence")
    assert list(actions.values_list("action", flat=True)) == [
        "pool.create",
        "pool.update",
        "pool.grant",
        "pool.revoke_grant",
    ]


def test_operators_see_and_cordon_nodes() -> None:
    make_card_type()
    node = make_node()
    make_allocation()
    client = operator()
    (row,) = client.get("/api/v1/nodes/", {"pool": "default"}).json()["results"]
    assert (row["name"], row["status"], row["accelerator_count"]) == ("node-a", "ready", 2)
    assert client.get("/api/v1/nodes/", {"status": "lost"}).json()["count"] == 0
    path = f"/api/v1/nodes/{node.pk}/"
    body = client.post(f"{path}cordon/", {"reason": "new fan"}, format="json").json()
    assert body["cordoned_at"]
    assert body["cordon_reason"] == "new fan"
    assert client.post(f"{path}uncordon/").json()["cordoned_at"] is None
    assert client.get(path).json()["cordon_reason"] == ""
    accelerators = client.get("/api/v1/accelerators/", {"node": "node-a"}).json()["results"]
    assert [(each["device_id"], each["slots_held"]) for each in accelerators] == [
        ("cpu:0", 4),
        ("cpu:1", 0),
    ]
    assert client.get(f"/api/v1/nodes/{new_id()}/").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "nodes/"),
        ("get", "nodes/{node}/"),
        ("post", "nodes/{node}/cordon/"),
        ("post", "nodes/{node}/uncordon/"),
        ("get", "accelerators/"),
        ("post", "pools/"),
        ("patch", "pools/{pool}/"),
        ("get", "pools/{pool}/grants/"),
        ("put", "pools/{pool}/grants/retail/"),
        ("delete", "pools/{pool}/grants/retail/"),
        ("post", "prices/"),
    ],
)
def test_tenants_do_not_operate(method: str, path: str) -> None:
    node = make_node()
    url = "/api/v1/" + path.format(node=node.pk, pool=node.pool_id)
    answer = getattr(client_of(), method)(url, {}, format="json")
    assert answer.status_code == 403
    assert answer.json()["error"]["message"]
    assert getattr(APIClient(), method)(url).status_code == 401
    assert Node.objects.get().cordoned_at is None


def test_an_organization_sees_its_own_allocations_alone() -> None:
    make_node()
    mine, other = make_allocation(), make_allocation(make_organization("bank"))
    services.release(allocation_id=mine.pk, reason="done", now=NOW + timedelta(minutes=1))
    tenant = client_of()
    (row,) = tenant.get("/api/v1/allocations/").json()["results"]
    assert (row["id"], row["release_reason"]) == (str(mine.pk), "done")
    assert tenant.get("/api/v1/allocations/", {"live": "true"}).json()["count"] == 0
    assert tenant.get("/api/v1/allocations/", {"all": "true"}).json()["count"] == 1
    everything = operator().get("/api/v1/allocations/", {"all": "true"}).json()["results"]
    assert {each["id"] for each in everything} == {str(mine.pk), str(other.pk)}
    assert operator().get("/api/v1/allocations/").json()["count"] == 0


def test_prices_are_set_by_operators_and_read_by_those_they_concern() -> None:
    make_card_type()
    make_organization("bank")
    make_pool("secret", is_open=False)
    client = operator()
    for scope in (
        {"accelerator_type": "nvidia-l20"},
        {"accelerator_type": "nvidia-l20", "organization": "bank"},
        {"pool": "secret"},
    ):
        body = {"item": "accelerator_hour", "unit_price": "1.50", **scope}
        made = client.post("/api/v1/prices/", body, format="json")
        assert made.status_code == 201, made.json()
        assert made.json()["unit_price"] == "1.50000000"
    assert PriceEntry.objects.count() == 3
    assert client.get("/api/v1/prices/").json()["count"] == 3
    assert client_of("bank").get("/api/v1/prices/").json()["count"] == 2
    (general,) = client_of().get("/api/v1/prices/").json()["results"]
    assert (general["accelerator_type"], general["organization"]) == ("nvidia-l20", None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"unit_price": "-1"}, "unit_price"),
        ({"item": "sun"}, "item"),
        ({"accelerator_type": "none"}, "accelerator_type"),
        ({"currency": "dollar"}, "currency"),
        ({"model_name": "support"}, "model_name"),
    ],
)
def test_a_bad_price_names_its_field(change: dict, field: str) -> None:
    body = {"item": "accelerator_hour", "unit_price": "1"} | change
    answer = operator().post("/api/v1/prices/", body, format="json")
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == field


def test_accelerator_types_show_null_for_what_is_not_published() -> None:
    make_card_type()
    (row,) = client_of().get("/api/v1/accelerator-types/").json()["results"]
    assert (row["slug"], row["bf16_flops"], row["engines"]) == ("nvidia-l20", None, ["vllm"])
