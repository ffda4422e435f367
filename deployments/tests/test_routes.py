"""Routes and providers as people ask for them."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from accounts.models import AuditEvent
from accounts.tests.make import NOW, make_key, make_organization
from chips.choices import PriceItem
from chips.price_book import PriceBook
from common import boxes
from common.errors import DomainError, InvalidInput, NotFound
from deployments import route_selectors, selectors, services
from deployments.models import Provider, Route
from deployments.services import WantedShadow, WantedTarget
from deployments.tests.make import make_deployment, make_provider

pytestmark = pytest.mark.django_db
KEY = "sk-elsewhere-1234"


@pytest.fixture(autouse=True)
def hosts(settings):
    settings.PROVIDER_HOSTS = "models.example.com"


def make_chain(folder: Path) -> Route:
    retail = make_organization()
    deployment = make_deployment(folder, retail)
    provider = make_provider(retail)
    return services.create_route(
        organization=retail,
        name="chat",
        targets=[
            WantedTarget(provider_id=provider.pk, provider_model_name="qwen-plus", rank=1),
            WantedTarget(deployment_id=deployment.pk),
        ],
        shadow=WantedShadow(deployment_id=deployment.pk, percent=10),
        now=NOW,
    )


def test_a_route_has_its_targets_by_rank_in_the_routing_table(tmp_path: Path) -> None:
    make_chain(tmp_path)
    rows = {row.name: row for row in selectors.get_routing_table()}
    assert [row.rank for row in rows["chat"].targets] == [0]
    (outside,) = rows["chat"].outside
    assert (outside.rank, outside.provider_model_name) == (1, "qwen-plus")
    assert boxes.open_sealed(outside.sealed_key) == KEY
    assert rows["chat"].shadow is not None
    assert rows["chat"].shadow.weight == 10
    assert rows["support"].outside == ()


def test_a_change_replaces_targets_and_is_audited_and_a_same_one_is_not(tmp_path: Path) -> None:
    route = make_chain(tmp_path)
    deployment = selectors.list_deployments(route.organization).get()
    wanted = [WantedTarget(deployment_id=deployment.pk, weight=7)]
    for _ in range(2):
        services.update_route(
            organization=route.organization,
            route_id=route.pk,
            targets=wanted,
            shadow=None,
            now=NOW,
        )
    row = route_selectors.get_route(route.organization, route.pk)
    assert [(each.weight, each.rank) for each in row.targets.all()] == [(7, 0)]
    assert (row.shadow_deployment, row.shadow_percent) == (None, 0)
    (event,) = AuditEvent.objects.filter(action="route.update")
    assert event.after["targets"] == [{"to": "support", "weight": 7, "rank": 0}]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"targets": []}, "targets"),
        ({"weight": 0}, "targets"),
        ({"weight": -1}, "targets.0.weight"),
        ({"rank": 99}, "targets.0.rank"),
        ({"deployment_id": None}, "targets.0.deployment"),
        ({"both": True}, "targets.0.deployment"),
        ({"strange": True}, "targets.0.deployment"),
        ({"nameless": True}, "targets.0.provider_model_name"),
        ({"twice": True}, "targets"),
        ({"percent": 101}, "shadow.percent"),
    ],
)
def test_bad_targets_are_refused_by_field(tmp_path: Path, change, field) -> None:
    retail = make_organization()
    deployment = make_deployment(tmp_path, retail)
    provider = make_provider(retail)
    wanted: dict[str, Any] = {"deployment_id": deployment.pk}
    if "both" in change:
        wanted |= {"provider_id": provider.pk, "provider_model_name": "x"}
    elif "nameless" in change:
        wanted = {"provider_id": provider.pk, "provider_model_name": " "}
    elif "strange" in change:
        wanted = {"deployment_id": make_deployment(tmp_path / "b", make_organization("bank")).pk}
    else:
        own = {"deployment_id", "weight", "rank"}
        wanted |= {name: value for name, value in change.items() if name in own}
    targets = change.get("targets", [WantedTarget(**wanted)] * (2 if "twice" in change else 1))
    shadow = WantedShadow(deployment_id=deployment.pk, percent=101) if "percent" in change else None
    with pytest.raises(InvalidInput) as refusal:
        services.create_route(
            organization=retail, name="chat", targets=targets, shadow=shadow, now=NOW
        )
    assert refusal.value.field == field
    assert not Route.objects.filter(name="chat").exists()


def test_a_name_is_taken_once_and_a_deployments_own_route_stays(tmp_path: Path) -> None:
    route = make_chain(tmp_path)
    retail = route.organization
    target = WantedTarget(deployment_id=selectors.list_deployments(retail).get().pk)
    with pytest.raises(services.RouteExists):
        services.create_route(organization=retail, name="chat", targets=[target], now=NOW)
    own = Route.objects.get(name="support")
    with pytest.raises(services.RouteOfDeployment):
        services.delete_route(organization=retail, route_id=own.pk, now=NOW)
    services.delete_route(organization=retail, route_id=route.pk, now=NOW)
    with pytest.raises(NotFound):
        route_selectors.get_route(retail, route.pk)


def test_a_deleted_deployment_leaves_its_routes_their_fallback(tmp_path: Path) -> None:
    route = make_chain(tmp_path)
    deployment = selectors.list_deployments(route.organization).get()
    services.delete_deployment(
        organization=route.organization, deployment_id=deployment.pk, now=NOW
    )
    row = route_selectors.get_route(route.organization, route.pk)
    assert [each.provider_id is not None for each in row.targets.all()] == [True]
    assert row.shadow_deployment is None
    assert not Route.objects.filter(name="support").exists()


def test_a_providers_key_is_sealed_its_prices_are_its_own_and_a_new_address_needs_it_again() -> (
    None
):
    retail = make_organization()
    row = services.create_provider(
        organization=retail,
        name="elsewhere",
        base_url="https://models.example.com/v1/",
        key=KEY,
        prices=services.Prices(input_tokens=Decimal(2), output_tokens=Decimal(6)),
        now=NOW,
    )
    row = Provider.objects.get(pk=row.pk)
    assert KEY.encode() not in bytes(row.sealed_key)
    assert (row.key_hint, row.base_url) == ("1234", "https://models.example.com/v1")
    assert KEY not in str(list(AuditEvent.objects.values()))
    book = PriceBook(retail)
    price = book.at(item=PriceItem.OUTPUT_TOKENS, at=NOW, provider_name="elsewhere")
    assert price is not None
    assert price.unit_price == 6
    assert book.at(item=PriceItem.OUTPUT_TOKENS, at=NOW) is None
    change: dict[str, Any] = {"organization": retail, "provider_id": row.pk, "now": NOW}
    with pytest.raises(InvalidInput) as refusal:
        services.update_provider(base_url="https://models.example.com/v2", **change)
    assert refusal.value.field == "key"
    services.update_provider(base_url="https://models.example.com/v2", key=KEY + "5", **change)
    row.refresh_from_db()
    assert boxes.open_sealed(row.sealed_key) == KEY + "5"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": "No Name"}, "name"),
        ({"base_url": "models.example.com"}, "base_url"),
        ({"base_url": "https://elsewhere.example.com/v1"}, "base_url"),
        ({"base_url": "http://169.254.169.254/latest"}, "base_url"),
        ({"key": "short"}, "key"),
        ({"key": "two\r\nlines-of-it"}, "key"),
    ],
)
def test_bad_providers_are_refused_by_field(values, field) -> None:
    asked = {"name": "a", "base_url": "https://models.example.com/v1", "key": KEY} | values
    with pytest.raises(InvalidInput) as refusal:
        services.create_provider(organization=make_organization(), now=NOW, **asked)
    assert refusal.value.field == field


def test_a_provider_that_routes_lead_to_is_not_deleted(tmp_path: Path) -> None:
    route = make_chain(tmp_path)
    provider = Provider.objects.get()
    with pytest.raises(DomainError, match="chat"):
        services.delete_provider(organization=route.organization, provider_id=provider.pk, now=NOW)
    services.delete_route(organization=route.organization, route_id=route.pk, now=NOW)
    services.delete_provider(organization=route.organization, provider_id=provider.pk, now=NOW)
    assert not Provider.objects.exists()


def test_a_provider_switched_off_is_in_no_routing_table(tmp_path: Path) -> None:
    route = make_chain(tmp_path)
    services.update_provider(
        organization=route.organization,
        provider_id=Provider.objects.get().pk,
        is_enabled=False,
        now=NOW,
    )
    assert all(not row.outside for row in selectors.get_routing_table())


def test_routes_and_providers_by_rest(client, tmp_path: Path, settings) -> None:
    retail = make_organization()
    deployment = make_deployment(tmp_path, retail)
    secret = make_key(retail, scopes=("read", "write"))
    options: dict[str, Any] = {
        "content_type": "application/json",
        "headers": {"Authorization": f"Bearer {secret}"},
    }
    asked = {
        "name": "elsewhere",
        "base_url": "https://models.example.com/v1",
        "key": KEY,
        "prices": {"input_tokens": "1.5"},
    }
    answer = client.post("/api/v1/providers/", asked, **options)
    assert answer.status_code == 201, answer.content
    provider = answer.json()
    assert KEY not in answer.content.decode()
    assert provider["key_hint"] == "1234"
    wanted: dict[str, Any] = {
        "name": "chat",
        "targets": [
            {"deployment": str(deployment.pk)},
            {"provider": provider["id"], "provider_model_name": "qwen-plus", "rank": 1},
        ],
    }
    route = client.post("/api/v1/routes/", wanted, **options)
    assert route.status_code == 201, route.content
    url = f"/api/v1/routes/{route.json()['id']}/"
    assert [each["rank"] for each in client.get(url, **options).json()["targets"]] == [0, 1]
    shadow = {"shadow": {"deployment": str(deployment.pk), "percent": 50}}
    assert client.patch(url, shadow, **options).json()["shadow_percent"] == 50
    assert client.get(f"{url}shadow-answers/", **options).json()["results"] == []
    refused = client.patch(url, {"targets": []}, **options)
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "targets")
    assert client.delete(f"/api/v1/providers/{provider['id']}/", **options).status_code == 409
    assert client.delete(url, **options).status_code == 204
    assert client.delete(f"/api/v1/providers/{provider['id']}/", **options).status_code == 204
