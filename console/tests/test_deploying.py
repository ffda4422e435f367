"""The deploy wizard: every step from its URL, errors beside their field, one deployment in the end."""

from decimal import Decimal
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from accounts.choices import Role
from accounts.models import Organization
from accounts.tests.make import NOW, make_member, make_organization
from chips.choices import PriceItem
from chips.models import Node, PriceEntry
from deployments import services
from deployments.models import Autoscaling, Deployment
from deployments.tests.make import make_node
from models_registry.models import Revision
from models_registry.tests.make import make_adapter_revision, make_revision

pytestmark = pytest.mark.django_db

PATH = "/deployments/new/"


@pytest.fixture
def organization() -> Organization:
    return make_organization()


@pytest.fixture
def client(organization: Organization) -> Client:
    client = Client()
    client.force_login(make_member(organization, "ada", Role.DEVELOPER))
    return client


@pytest.fixture
def revision(organization: Organization, tmp_path: Path) -> Revision:
    return make_revision(tmp_path, organization, name="tiny")


def answers(chosen: Revision, /, **more: str) -> dict[str, str]:
    """What all steps ask."""
    return {
        "revision": str(chosen.pk),
        "engine": "transformers",
        "share": "whole",
        "count": "1",
        "max_context_tokens": "256",
        "max_concurrency": "",
        "pool_name": "",
        "name": "tiny",
        "replicas": "2",
    } | more


def make_priced_node(name: str, *, pool: str, price: str, accelerators: int = 2) -> None:
    make_node(name, pool=pool, accelerators=accelerators)
    PriceEntry.objects.create(
        item=PriceItem.ACCELERATOR_HOUR,
        pool=Node.objects.get(name=name).pool,
        unit_price=Decimal(price),
        currency="CNY",
        valid_from=NOW,
    )


def test_each_step_shows_what_the_next_decision_needs(client: Client, revision: Revision) -> None:
    make_priced_node("a", pool="cheap", price="0.10")
    make_priced_node("b", pool="dear", price="0.30", accelerators=1)
    first = client.get(PATH).content.decode()
    assert "tiny r1" in first
    assert 'value="where"' in first
    # A link from a model's page goes past the first step; the least that fits is proposed.
    where = client.get(PATH, {"revision": str(revision.pk)})
    assert where.context["wizard"].step == "where"
    text = where.content.decode()
    assert "0.10 CNY an hour for each replica" in text
    assert text.index("cheap") < text.index("dear")
    assert "room for 2" in text
    # What was said rides along, in sight of nobody.
    copies = client.get(PATH, answers(revision, step="copies", pool_name="dear"))
    assert 'type="hidden" name="pool_name" value="dear"' in copies.content.decode()
    assert "There is room for 1 now; more wait." in copies.content.decode()
    summary = client.get(PATH, answers(revision, step="summary", pool_name="dear"))
    text = summary.content.decode()
    assert "0.60 CNY an hour" in text
    assert "438.00 CNY a month" in text
    assert "There is room for 1 of 2 replicas now" in text
    assert "step=copies" in text  # back
    anywhere = client.get(PATH, answers(revision, step="summary")).content.decode()
    assert "0.20 to 0.60 CNY an hour" in anywhere
    assert not Deployment.objects.exists()


def test_all_answers_make_a_deployment(client: Client, revision: Revision) -> None:
    make_node("a", pool="cheap", accelerators=2)
    scaling = {"autoscaling": "on", "min_replicas": "0", "max_replicas": "3"}
    answer = client.post(PATH, answers(revision, pool_name="cheap", **scaling))
    deployment = Deployment.objects.get()
    assert answer["Location"] == reverse("console:deployment", args=[deployment.pk])
    assert (deployment.name, deployment.desired_replicas) == ("tiny", 2)
    assert (deployment.engine, deployment.pool_name) == ("transformers", "cheap")
    assert deployment.accelerators_per_replica == 1
    assert deployment.settings == {"max_context_tokens": 256}
    row = Autoscaling.objects.get()
    assert (row.enabled, row.min_replicas, row.max_replicas) == (True, 0, 3)


def test_what_is_wrong_stands_in_its_step_beside_its_field(
    client: Client, revision: Revision
) -> None:
    make_node("a", accelerators=1)
    for given, step, field in (
        ({"revision": ""}, "model", "revision"),
        ({"count": "0"}, "where", "count"),
        ({"max_context_tokens": "99999999"}, "where", "max_context_tokens"),
        ({"pool_name": "nowhere"}, "where", "pool_name"),
        ({"name": "no spaces"}, "copies", "name"),
        ({"autoscaling": "on", "min_replicas": "4", "max_replicas": "2"}, "copies", "max_replicas"),
        ({"autoscaling": "on"}, "copies", "min_replicas"),
    ):
        for answer in (
            client.get(PATH, answers(revision, step="summary", **given)),
            client.post(PATH, answers(revision, **given)),
        ):
            wizard = answer.context["wizard"]
            assert (answer.status_code, wizard.step) == (422, step), given
            assert field in wizard.form.errors
            assert str(wizard.form.errors[field][0]) in answer.content.decode()
    assert not Deployment.objects.exists()


def test_what_fits_nowhere_is_told_before_it_is_deployed(
    client: Client, revision: Revision
) -> None:
    make_node("a", accelerators=1)
    where = client.get(PATH, answers(revision, step="where", count="3")).content.decode()
    assert "does not fit" in where
    assert "3 accelerators wanted" in where
    summary = client.get(PATH, answers(revision, step="summary", count="3")).content.decode()
    assert "It fits nowhere as things are." in summary


def test_an_adapter_joins_a_host_or_gets_replicas_of_its_own(
    client: Client, organization: Organization, revision: Revision, tmp_path: Path
) -> None:
    make_node("a", accelerators=2)
    host = services.create_deployment(
        organization=organization, name="base", revision_id=revision.pk, now=NOW
    )
    adapter = make_adapter_revision(tmp_path, revision, name="support")
    where = client.get(PATH, {"revision": str(adapter.pk)}).content.decode()
    assert f'value="{host.pk}" checked' in where
    assert "Where it fits now" not in where
    own = client.get(PATH, {"revision": str(adapter.pk), "host": "own"}).content.decode()
    assert "Where it fits now" in own
    client.post(PATH, {"revision": str(adapter.pk), "host": str(host.pk), "name": "support"})
    assert Deployment.objects.get(name="support").host == host
    client.post(PATH, answers(adapter, host="own", name="alone", replicas="1"))
    alone = Deployment.objects.get(name="alone")
    assert (alone.host, alone.desired_replicas) == (None, 1)


def test_another_organizations_model_cannot_be_deployed(client: Client, tmp_path: Path) -> None:
    other = make_revision(tmp_path, make_organization("logistics"), name="theirs")
    assert client.post(PATH, answers(other)).context["wizard"].step == "model"
    assert not Deployment.objects.exists()
