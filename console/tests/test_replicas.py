"""A deployment's page: replicas on chips, logs that follow, why one failed, changing what runs."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from console import replicas
from console.tests.make import World, make_world
from console.traffic import Load
from console.views.deployments import list_replicas
from deployments import services
from deployments.models import Deployment, Rollout
from models_registry.tests.make import make_adapter_revision

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def world(tmp_path: Path, settings) -> World:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
    return make_world(tmp_path, now=NOW)


@pytest.fixture
def client(world: World) -> Client:
    client = Client()
    client.force_login(world.person)
    return client


def page(name: str, *ids: object) -> str:
    return reverse(f"console:{name}", args=ids)


def test_replicas_are_drawn_on_what_they_hold(world: World) -> None:
    rows = list_replicas(world.deployment)
    ready = next(one for one in rows if one.status == "ready")
    load = {ready.pk: Load(in_flight=3, tokens_per_second=41.5)}
    alpha, waiting = replicas.draw(rows, load=load)
    assert (alpha.node, waiting.node) == (world.node, None)
    (card,) = alpha.cards
    assert card.load == Load(in_flight=3, tokens_per_second=41.5)
    (chip,) = card.chips
    assert "1 of 2 slots" in chip.text
    assert sorted(chip.slots) == [False, True]
    assert [card.chips for card in waiting.cards] == [[]]
    assert replicas.draw(rows, load=None)[0].cards[0].load is None


def test_the_log_of_a_chosen_replica_follows(client: Client, world: World) -> None:
    replica = world.deployment.replicas.get(status="ready")
    path = page("deployment_logs", world.deployment.pk)
    whole = client.get(path)
    assert "ready to answer" in whole.content.decode()
    replica.log_tail = "first line\nsecond line"
    replica.save()
    part = client.get(path, {"replica": str(replica.pk)}, headers={"HX-Request": "true"})
    text = part.content.decode()
    assert "second line" in text
    assert "<h1" not in text
    assert 'data-poll-seconds="2"' in text
    assert f"?replica={replica.pk}" in text
    kept = client.get(page("replica_log", world.deployment.pk, replica.pk))
    assert kept.content == b"first line\nsecond line"
    assert "attachment" in kept["Content-Disposition"]
    replica.status = "stopped"
    replica.save()
    part = client.get(path, {"replica": str(replica.pk)}, headers={"HX-Request": "true"})
    assert 'data-poll-seconds="0"' in part.content.decode()


def test_why_a_replica_failed_stands_on_the_page(client: Client, world: World) -> None:
    replica = world.deployment.replicas.get(status="ready")
    replica.status, replica.status_reason = "failed", "out_of_memory"
    replica.message = "The accelerator ran out of memory. Give each replica more of it."
    replica.ended_at = NOW
    replica.save()
    Deployment.objects.update(failures=1)
    text = client.get(page("deployment", world.deployment.pk)).content.decode()
    assert "Out of memory" in text
    assert "Give each replica more of it." in text


def test_a_change_of_what_runs_is_rolled_out(client: Client, world: World) -> None:
    """The form shows where the rollout under way leads, and keeps settings that it does not ask."""
    Rollout.objects.all().delete()
    Deployment.objects.update(settings={"dtype": "float32", "max_concurrency": 8})
    path = page("deployment_change", world.deployment.pk)
    form = client.get(path).context["form"]
    assert form.initial["max_concurrency"] == 8
    data = {
        "revision": str(world.base.pk),
        "engine": "transformers",
        "share": "slots",
        "count": "2",
        "max_context_tokens": "",
        "max_concurrency": "32",
        "pool_name": "local",
        "strategy": "replace",
    }
    seen = client.post(path, data | {"only": "plan", "count": "9"})  # as it is filled in
    assert "does not fit" in seen.content.decode()
    assert not Rollout.objects.exists()
    assert client.post(path, data)["Location"] == page("deployment", world.deployment.pk)
    rollout = Rollout.objects.get()
    assert rollout.to_variant.revision == world.base
    assert rollout.to_variant.slots_per_replica == 2
    assert rollout.to_variant.settings == {"dtype": "float32", "max_concurrency": 32}
    assert (rollout.plan["max_surge"], rollout.plan["max_unavailable"]) == (0, 1)
    shown = client.get(path)
    assert shown.context["form"].initial["max_concurrency"] == 32
    assert "Rollout 1 is under way." in shown.content.decode()
    wrong = client.post(path, data | {"count": "0", "pool_name": "nowhere"})
    assert wrong.status_code == 422
    assert set(wrong.context["form"].errors) == {"count", "pool_name"}
    same = client.post(path, data | {"strategy": ""}, follow=True)
    assert Rollout.objects.count() == 1
    assert same.status_code == 200


def test_another_adapter_follows_on_a_host(client: Client, world: World, tmp_path: Path) -> None:
    base = services.create_deployment(
        organization=world.organization, name="base", revision_id=world.base.pk, now=NOW
    )
    first, second = (
        make_adapter_revision(tmp_path, world.base, name="intent", seed=seed) for seed in (1, 2)
    )
    guest = services.create_deployment(
        organization=world.organization, name="intent", revision_id=first.pk, now=NOW
    )
    assert guest.host == base
    path = page("deployment_change", guest.pk)
    assert set(client.get(path).context["form"].fields) == {"revision"}
    client.post(path, {"revision": str(second.pk)})
    guest.refresh_from_db()
    assert guest.revision == second
    assert client.get(page("deployment", guest.pk)).status_code == 200
