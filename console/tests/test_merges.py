"""Merging an adapter from its page, and following it there."""

from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from accounts.choices import Role
from accounts.tests.make import make_member, make_organization
from models_registry.choices import MergeStatus
from models_registry.models import Revision, RevisionMerge
from models_registry.tests.make import make_adapter_revision, make_revision

pytestmark = pytest.mark.django_db


@pytest.fixture
def adapter(tmp_path: Path, settings) -> Revision:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
    settings.FACTORY_DATA = tmp_path / "data"
    base = make_revision(tmp_path, make_organization())
    return make_adapter_revision(tmp_path, base, name="tuned")


HTMX = {"HX-Request": "true"}


def signed_in(role: str = Role.DEVELOPER) -> Client:
    client = Client()
    client.force_login(make_member(make_organization(), "ada", role))
    return client


def test_the_button_asks_and_the_page_follows(adapter: Revision) -> None:
    client = signed_in()
    page = reverse("console:revision", args=[adapter.pk])
    assert "Merge into its base" in client.get(page).content.decode()
    answer = client.post(reverse("console:merge_revision", args=[adapter.pk]), {"name": "mine"})
    assert (answer.status_code, answer["Location"]) == (302, page)
    merge = RevisionMerge.objects.get()
    assert (merge.adapter, merge.name) == (adapter, "mine")

    part = reverse("console:revision_merges", args=[adapter.pk])
    RevisionMerge.objects.update(status=MergeStatus.MERGING, done_bytes=1000, total_bytes=4000)
    seen = client.get(page).content.decode()
    assert f'hx-get="{part}"' in seen
    assert "Merge into its base" not in seen
    seen = client.get(part, headers=HTMX).content.decode()
    assert 'value="1000"' in seen
    assert "<html" not in seen
    RevisionMerge.objects.update(status=MergeStatus.FAILED, message="It does not fit.")
    seen = client.get(part, headers=HTMX).content.decode()
    assert "It does not fit." in seen
    assert "hx-get" not in seen
    assert "Merge into its base" in seen
    RevisionMerge.objects.update(status=MergeStatus.SUCCEEDED, revision=adapter.parent)
    assert (
        reverse("console:revision", args=[adapter.parent_id])
        in client.get(part, headers=HTMX).content.decode()
    )


def test_a_refusal_is_said_on_the_page(adapter: Revision) -> None:
    url = reverse("console:merge_revision", args=[adapter.pk])
    answer = signed_in().post(url, {"name": "tiny"}, follow=True)
    assert "holds something else. Choose another name." in answer.content.decode()
    assert not RevisionMerge.objects.exists()


def test_who_may_only_look_sees_no_button(adapter: Revision) -> None:
    client = signed_in(Role.VIEWER)
    page = client.get(reverse("console:revision", args=[adapter.pk])).content.decode()
    assert "Merge into its base" not in page
    assert client.post(reverse("console:merge_revision", args=[adapter.pk])).status_code == 403


def test_what_is_no_adapter_has_nothing_to_merge(adapter: Revision) -> None:
    page = signed_in().get(reverse("console:revision", args=[adapter.parent_id]))
    assert "Merge into its base" not in page.content.decode()


def test_a_dora_adapter_says_what_to_do(adapter: Revision) -> None:
    Revision.objects.filter(pk=adapter.pk).update(facts={"dora": True})
    part = signed_in().get(reverse("console:revision_merges", args=[adapter.pk]))
    assert "merge it first" in part.content.decode()
