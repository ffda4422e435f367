"""Every page: for members, against strangers, without inline script or style."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.test import Client
from django.urls import URLPattern, reverse

from accounts.choices import Role
from accounts.tests.make import make_member, make_organization, make_user
from chips.models import Node
from console import urls
from console.tests.make import World, make_world
from openai_api.models import FineTuningJob
from openai_api.tests.make import make_job

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
POSTS = {  # answer to POST alone
    "switch_organization",
    "theme",
    "language",
    "gate_remove",
    "merge_revision",
    "move_alias",
    "run_cancel",
    "run_pause",
    "run_resume",
    "evaluation_cancel",
    "deployment_autoscaling",
    "deployment_scale",
    "deployment_delete",
    "rollout_abort",
    "rollout_pause",
    "rollout_promote",
    "rollout_resume",
    "playground_answer",
    "key_end_previous",
    "key_revoke",
    "limit_remove",
    "load_test_cancel",
    "dataset_columns",
    "dataset_version_count",
    "member_remove",
    "node_cordon",
    "node_uncordon",
}
INLINE = re.compile(
    r"<script(?![^>]*\bsrc=)|<style|\sstyle\s*=|\son[a-z]+\s*=\s*[\"']|javascript:", re.IGNORECASE
)


@pytest.fixture
def world(tmp_path: Path, settings) -> World:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
    world = make_world(tmp_path, now=NOW)
    make_job(tmp_path, world.organization, model=world.base.registered_model.name)
    return world


def arguments(world: World) -> dict[str, object]:
    return {
        "alias": "champion",
        "model_id": world.model.pk,
        "revision_id": world.result.pk,
        "dataset_id": world.dataset.pk,
        "version_id": world.version.pk,
        "run_id": world.run.pk,
        "job_id": f"ftjob-{FineTuningJob.objects.get(organization=world.organization).pk.hex}",
        "evaluation_id": world.evaluation.pk,
        "deployment_id": world.deployment.pk,
        "replica_id": world.deployment.replicas.get(status="ready").pk,
        "load_test_id": world.load_test.pk,
        "rollout_id": world.rollout.pk,
        "key_id": world.key.pk,
        "limit_id": world.limit.pk,
        "user_id": world.person.pk,
        "node_id": world.node.pk,
    }


def address(pattern: URLPattern, world: World) -> str:
    known = arguments(world)
    return reverse(
        f"console:{pattern.name}", kwargs={name: known[name] for name in pattern.pattern.converters}
    )


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


PAGES = [pattern for pattern in urls.urlpatterns if pattern.name not in POSTS]


def test_every_page_renders_without_inline_script_or_style(world: World) -> None:
    world.person.is_staff = True
    world.person.save()
    client = signed_in(world.person)
    for pattern in PAGES:
        answer = client.get(address(pattern, world))
        assert answer.status_code == 200, pattern.name
        if not answer["Content-Type"].startswith("text/html"):
            continue
        text = answer.content.decode()
        assert not INLINE.search(text), (pattern.name, INLINE.search(text))
        assert text.count("<h1") == 1, pattern.name
        ids = re.findall(r'\sid="([^"]+)"', text)
        assert len(ids) == len(set(ids)), (pattern.name, [i for i in ids if ids.count(i) > 1])
        assert "default-src 'self'" in answer["Content-Security-Policy"]


def test_nobody_sees_a_page_without_signing_in(world: World) -> None:
    client = Client()
    for pattern in urls.urlpatterns:
        if pattern.name in {"theme", "language"}:
            continue  # these hold before sign-in, and touch nothing but a cookie
        url = address(pattern, world)
        answer = client.post(url) if pattern.name in POSTS else client.get(url)
        if pattern.name == "playground_answer":
            assert answer.status_code in {400, 401}
        else:
            assert answer.status_code == 302, pattern.name
            assert answer["Location"].startswith("/accounts/login/"), pattern.name


def test_another_organizations_objects_are_not_there(world: World) -> None:
    client = signed_in(make_member(make_organization("logistics"), "bob", Role.OWNER))
    for pattern in urls.urlpatterns:
        if not pattern.pattern.converters:
            continue
        url = address(pattern, world)
        answer = client.post(url) if pattern.name in POSTS else client.get(url)
        assert answer.status_code == (403 if "node" in str(pattern.name) else 404), pattern.name
    world.run.refresh_from_db()
    world.deployment.refresh_from_db()
    world.key.refresh_from_db()
    assert world.run.cancel_requested_at is None
    assert world.deployment.delete_requested_at is None
    assert world.key.revoked_at is None


def test_what_others_found_out_about_a_shared_model_stays_theirs(world: World) -> None:
    model = world.result.registered_model
    model.visibility = "shared"
    model.save()
    owner = signed_in(world.person)
    stranger = signed_in(make_member(make_organization("logistics"), "bob", Role.OWNER))
    for url in (
        reverse("console:model", args=[model.pk]),
        reverse("console:revision", args=[world.result.pk]),
    ):
        assert "94.0" in owner.get(url).content.decode()
        seen = stranger.get(url)
        assert seen.status_code == 200
        for secret in ("94.0", "support-full-1", "/deployments/0", "support:1"):
            assert secret not in seen.content.decode(), secret


def test_what_changes_something_refuses_get(world: World) -> None:
    client = signed_in(world.person)
    for pattern in urls.urlpatterns:
        if pattern.name in POSTS:
            assert client.get(address(pattern, world)).status_code == 405, pattern.name


def test_a_viewer_may_look_and_not_touch(world: World) -> None:
    client = signed_in(make_member(world.organization, "vera", Role.VIEWER))
    page = client.get(reverse("console:run", args=[world.run.pk]))
    assert page.status_code == 200
    assert "Stop run" not in page.content.decode()
    for url in (
        reverse("console:run_cancel", args=[world.run.pk]),
        reverse("console:deployment_delete", args=[world.deployment.pk]),
        reverse("console:key_revoke", args=[world.key.pk]),
    ):
        assert client.post(url).status_code == 403
    world.run.refresh_from_db()
    assert world.run.cancel_requested_at is None


def test_somebody_without_an_organization_is_told_so() -> None:
    answer = signed_in(make_user("lone")).get("/")
    assert answer.status_code == 403
    assert "You belong to no organization yet" in answer.content.decode()


def test_htmx_gets_the_moving_part_alone_with_its_pace(world: World) -> None:
    url = reverse("console:run", args=[world.run.pk])
    client = signed_in(world.person)
    part = client.get(url, headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part
    assert 'data-poll-seconds="2"' in part
    assert f'hx-get="{url}"' in part
    world.run.status = "succeeded"
    world.run.save()
    part = client.get(url, headers={"HX-Request": "true"}).content.decode()
    assert 'data-poll-seconds="15"' in part


def test_the_switcher_shows_another_organization_and_only_ones_own(world: World) -> None:
    client = signed_in(world.person)
    other = make_organization("second")
    foreign = make_organization("foreign")
    make_member(other, world.person.username, Role.VIEWER)
    url = reverse("console:switch_organization")
    assert client.post(url, {"organization": str(foreign.pk)}).status_code == 404
    assert client.post(url, {"organization": str(other.pk)}).status_code == 302
    assert client.get(reverse("console:run", args=[world.run.pk])).status_code == 404
    assert "Second" in client.get("/").content.decode()


def test_errors_have_pages_of_their_own(world: World) -> None:
    answer = signed_in(world.person).get("/no-such-page/")
    assert answer.status_code == 404
    assert "There is nothing here for you" in answer.content.decode()


def test_a_crash_shows_its_request_id(world: World, monkeypatch) -> None:
    client = signed_in(world.person)
    client.raise_request_exception = False
    monkeypatch.setattr("console.views.overview._steps", lambda organization: 1 / 0)
    answer = client.get("/", headers={"X-Request-Id": "request-4711"})
    assert answer.status_code == 500
    assert "request-4711" in answer.content.decode()


def test_theme_and_language_are_remembered_before_sign_in() -> None:
    client = Client()
    answer = client.post(reverse("console:theme"), {"theme": "dark", "next": "/accounts/login/"})
    assert answer["Location"] == "/accounts/login/"
    client.post(reverse("console:language"), {"language": "zh-hans", "next": "/"})
    page = client.get("/accounts/login/").content.decode()
    assert 'data-theme="dark"' in page
    assert 'lang="zh-Hans"' in page
    away = client.post(reverse("console:theme"), {"theme": "dark", "next": "https://example.com/"})
    assert away["Location"] == "/"


def test_operators_see_what_waits_and_why(world: World) -> None:
    world.person.is_staff = True
    world.person.save()
    world.run.status, world.run.message = "pending", "All accelerators of the pool are busy."
    world.run.save()
    page = signed_in(world.person).get(reverse("console:chips")).content.decode()
    assert "All accelerators of the pool are busy." in page
    assert "1 of 2 slots used by retail support" in page


def test_a_large_pool_shows_its_first_nodes_and_pages_through_the_rest(world: World) -> None:
    world.person.is_staff = True
    world.person.save()
    Node.objects.bulk_create(
        Node(name=f"beta-{number:03}", pool=world.node.pool, registered_at=NOW)
        for number in range(100)
    )
    client = signed_in(world.person)
    first = client.get(reverse("console:chips")).content.decode()
    assert "alpha" in first
    assert "beta-099" not in first
    assert "All 101 nodes" in first
    second = client.get(reverse("console:chips"), {"pool": "local", "page": "2"}).content.decode()
    assert "beta-099" in second
    assert ">alpha<" not in second
