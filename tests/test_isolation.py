"""Another organization sees nothing: every URL of every root is walked with a stranger's access.

A new URL with a new kind of id fails here until it is named in `ids_of`; nobody can forget it.
"""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from accounts.tests.make import make_key, make_member, make_organization
from console.tests.make import World, make_world
from openai_api.models import FineTuningJob
from openai_api.tests.make import make_batch, make_job

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
METHODS = ("get", "post", "put", "patch", "delete")
PUBLIC = {"pool_id", "organization", "alias"}  # names, and pools that are open to all
OPENAI = "/v1/"  # files and fine-tuning jobs: with a key alone
LEFT_OUT = ("admin/", "accounts/", "static/")  # staff alone; sign-in


@dataclass(frozen=True)
class Url:
    """A pattern's address with the ids of one organization's rows in it."""

    path: str
    ghost: str  # the same with ids of rows that are not there; empty if it names no private row
    is_tenants: bool  # the row is an organization's own, not the operators'


def ids_of(world: World) -> dict[str, Any]:
    job = FineTuningJob.objects.get(organization=world.organization)
    return {
        "model_id": world.model.pk,
        "revision_id": world.result.pk,
        "import_id": uuid.uuid4(),
        "merge_id": uuid.uuid4(),
        "alias": "champion",
        "dataset_id": world.dataset.pk,
        "version_id": world.version.pk,
        "run_id": world.run.pk,
        "evaluation_id": world.evaluation.pk,
        "deployment_id": world.deployment.pk,
        "load_test_id": world.load_test.pk,
        "replica_id": world.deployment.replicas.first().pk,
        "rollout_id": world.rollout.pk,
        "key_id": world.key.pk,
        "limit_id": world.limit.pk,
        "route_id": world.route.pk,
        "provider_id": world.provider.pk,
        "member_id": world.person.memberships.get().pk,
        "user_id": world.person.pk,
        "node_id": world.node.pk,
        "pool_id": world.node.pool_id,
        "organization": world.organization.slug,
        "file_id": f"file-{job.training_file_id.hex}",
        "job_id": f"ftjob-{job.pk.hex}",
        "batch_id": f"batch_{make_batch(world.organization).pk.hex}",
        "model": job.fine_tuned_model,
    }


def walk(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for entry in patterns:
        route = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from walk(entry.url_patterns, route)
        else:
            yield route, entry


def all_urls(world: World) -> list[Url]:
    ids, urls = ids_of(world), []
    for route, entry in walk(get_resolver().url_patterns):
        if route.startswith(LEFT_OUT):
            continue
        names = set(entry.pattern.converters)
        assert names <= set(ids), f"{route}: say in ids_of() which row {names - set(ids)} names"
        private = names - PUBLIC
        url = Url(
            path=filled(route, ids),
            ghost=filled(route, ids | {name: ghost_of(ids[name]) for name in private})
            if private
            else "",
            is_tenants=bool(private - {"node_id"}),
        )
        urls.append(url)
    return urls


def filled(route: str, ids: dict[str, Any]) -> str:
    path = "/" + route.replace("^", "").replace("$", "").replace("\\Z", "")
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: str(ids[found[1]]), path)


def ghost_of(value: Any) -> Any:
    return uuid.uuid4() if isinstance(value, uuid.UUID) else 999_999


@pytest.fixture
def world(tmp_path: Path, settings) -> World:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
    world = make_world(tmp_path, slug="retail", person="ada", now=NOW)
    make_job(tmp_path, world.organization)
    return world


def secrets_of(world: World) -> list[str]:
    """Ids and names that only retail may read. Pools and nodes belong to nobody."""
    rows = (
        world.result,
        world.run,
        world.deployment,
        world.rollout,
        world.evaluation,
        world.dataset,
        world.version,
        world.model,
        world.key,
    )
    job = FineTuningJob.objects.get(organization=world.organization)
    openai = (job.pk.hex, job.training_file_id.hex, job.fine_tuned_model)
    return [*(str(row.pk) for row in rows), *openai, "retail-support", world.key.prefix]


def test_a_strangers_key_sees_nothing_at_any_url(world: World) -> None:
    secret = make_key(make_organization("bank"))
    client = Client(headers={"Authorization": f"Bearer {secret}"}, raise_request_exception=True)
    by_key = [u for u in all_urls(world) if u.path.startswith(("/api/v1/", OPENAI))]
    assert check(client, world, by_key) > 120


def test_a_strangers_session_sees_nothing_at_any_url(world: World) -> None:
    client = Client()
    client.force_login(make_member(make_organization("bank"), "bob"))
    with_session = [u for u in all_urls(world) if not u.path.startswith(OPENAI)]
    visited = check(client, world, with_session)
    assert visited > 120


def test_a_session_is_no_key(world: World) -> None:
    client = Client()
    client.force_login(world.person)
    for url in [u for u in all_urls(world) if u.path.startswith(OPENAI)]:
        assert client.get(url.path).status_code == 401, url.path


def test_without_access_there_is_nothing_but_the_sign_in(world: World) -> None:
    client = Client()
    for url in all_urls(world):
        if url.path in {"/healthz", "/readyz"} or url.path.startswith("/api/v1/schema"):
            continue
        answer = client.get(url.path)
        body = answer.content.decode(errors="replace")
        assert answer.status_code in {302, 401, 403, 404, 405} or "/docs/" in url.path, url.path
        assert not [word for word in secrets_of(world) if word in body], url.path


def check(client: Client, world: World, urls: list[Url]) -> int:
    """Send every method to every URL. What names a row must be refused, what lists must not list."""
    visited = 0
    for url in urls:
        for method in METHODS:
            answer = getattr(client, method)(url.path)
            visited += 1
            where = f"{method} {url.path} -> {answer.status_code}"
            assert answer.status_code < 500 or url.path == "/readyz", where
            body = answer.content.decode(errors="replace") if not answer.streaming else ""
            found = [word for word in secrets_of(world) if word in body and word not in url.path]
            assert not found, f"{where} tells {found}"
            if url.ghost and method == "get":
                assert answer.status_code in ({404, 405} if url.is_tenants else {403, 404, 405}), (
                    where
                )
            if url.ghost:  # refused exactly as if there were no such row
                same = getattr(client, method)(url.ghost).status_code
                assert answer.status_code == same >= 400, f"{where}, a row that is not: {same}"
    return visited
