"""Forms do what they say, keep what was typed and say what is wrong."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.choices import Role, Scope
from accounts.models import ApiKey, Membership
from accounts.services import authenticate_api_key
from accounts.tests.make import make_member, make_organization, make_user
from console.tests.make_serving import make_node
from console.tests.make_training import chat_lines, make_version
from deployments.models import Autoscaling, Deployment
from models_registry.models import RevisionImport
from models_registry.tests.make import make_revision
from training.models import Dataset, DatasetVersion

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _storage(tmp_path: Path, settings) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(make_member(make_organization(), "ada", Role.OWNER))
    return client


def upload(name: str, data: bytes) -> io.BytesIO:
    file = io.BytesIO(data)
    file.name = name
    return file


def test_a_key_is_shown_once_and_works(client: Client) -> None:
    answer = client.post(
        reverse("console:key_create"),
        {"name": "report", "scopes": [Scope.INFERENCE], "days": "30"},
    )
    secret = answer.context["secret"]
    assert secret in answer.content.decode()
    assert answer["Cache-Control"] == "no-store"
    row = authenticate_api_key(secret, now=ApiKey.objects.get().created_at)
    assert row is not None
    assert row.expires_at is not None
    page = client.get(reverse("console:keys")).content.decode()
    assert secret not in page
    assert row.prefix in page


def test_a_key_without_scope_is_refused_and_its_name_kept(client: Client) -> None:
    answer = client.post(reverse("console:key_create"), {"name": "report", "days": "30"})
    assert answer.status_code == 422
    page = answer.content.decode()
    assert 'value="report"' in page
    assert 'aria-invalid="true"' in page
    assert not ApiKey.objects.exists()


def test_only_staff_may_make_keys_that_operate(client: Client) -> None:
    data = {"name": "x", "scopes": [Scope.OPERATE], "days": "30"}
    assert client.post(reverse("console:key_create"), data).status_code == 422
    assert not ApiKey.objects.exists()


def test_revoking_a_key(client: Client) -> None:
    client.post(reverse("console:key_create"), {"name": "k", "scopes": ["read"], "days": ""})
    key = ApiKey.objects.get()
    client.post(reverse("console:key_revoke", args=[key.pk]))
    key.refresh_from_db()
    assert key.revoked_at is not None


def test_a_key_is_changed_and_bad_networks_are_told_beside_their_field(client: Client) -> None:
    client.post(reverse("console:key_create"), {"name": "k", "scopes": ["read"], "days": "30"})
    key = ApiKey.objects.get()
    url = reverse("console:key_change", args=[key.pk])
    assert 'value="k"' in client.get(url).content.decode()
    data = {"name": "nightly", "scopes": ["read", "inference"], "days": "keep"}
    refused = client.post(url, data | {"allowed_networks": "10.0.0.1/8"})
    assert refused.status_code == 422
    assert "allowed_networks" in refused.context["form"].errors
    answer = client.post(url, data | {"allowed_networks": "10.0.0.0/8\n192.0.2.7"})
    assert answer.status_code == 302
    before, key = key, ApiKey.objects.get()
    assert (key.name, key.scopes) == ("nightly", ["inference", "read"])
    assert key.allowed_networks == ["10.0.0.0/8", "192.0.2.7/32"]
    assert key.expires_at == before.expires_at
    assert "192.0.2.7/32" in client.get(reverse("console:keys")).content.decode()


def test_a_new_secret_is_shown_once_and_the_previous_one_can_be_ended(client: Client) -> None:
    data = {"name": "k", "scopes": ["read"], "days": ""}
    first = client.post(reverse("console:key_create"), data).context["secret"]
    key = ApiKey.objects.get()
    url = reverse("console:key_rotate", args=[key.pk])
    assert client.get(url).status_code == 200
    answer = client.post(url, {"overlap_seconds": "86400"})
    assert answer["Cache-Control"] == "no-store"
    now = timezone.now()
    assert authenticate_api_key(answer.context["secret"], now=now) == key
    assert authenticate_api_key(first, now=now) == key
    assert client.post(url, {"overlap_seconds": "86400"}).status_code == 422
    client.post(reverse("console:key_end_previous", args=[key.pk]))
    assert authenticate_api_key(first, now=timezone.now()) is None


def test_a_bad_dataset_is_refused_whole_with_its_lines(client: Client) -> None:
    bad = chat_lines(2) + b'{"messages": []}\nnot json\n'
    answer = client.post(
        reverse("console:dataset_upload"),
        {"name": "support", "description": "Kept words", "train": upload("train.jsonl", bad)},
    )
    page = answer.content.decode()
    assert answer.status_code == 422
    assert "2 errors were found" in page
    assert [error["line"] for error in answer.context["errors"]] == [3, 4]
    assert "Kept words" in page
    assert not DatasetVersion.objects.exists()
    good = client.post(
        reverse("console:dataset_upload"),
        {
            "name": "support",
            "train": upload("train.jsonl", chat_lines(4)),
            "more": [upload("Hard One.jsonl", chat_lines(2, start=50))],
        },
    )
    version = DatasetVersion.objects.get()
    assert good["Location"] == reverse("console:dataset_version", args=[version.pk])
    assert {split.name: split.examples for split in version.splits.all()} == {
        "hard-one": 2,
        "train": 4,
    }


def test_the_name_of_another_dataset_is_refused_beside_the_field(client: Client) -> None:
    make_version(make_organization(), now=NOW)
    answer = client.post(
        reverse("console:dataset_upload"),
        {"name": "support", "train": upload("train.jsonl", chat_lines(4))},
    )
    assert answer.status_code == 422
    assert "name" in answer.context["form"].errors
    assert Dataset.objects.count() == 1


def test_a_deployment_is_made_scaled_and_deleted(client: Client, tmp_path: Path) -> None:
    revision = make_revision(tmp_path)
    data = {"name": "tiny", "revision": str(revision.pk), "replicas": "1"}
    client.post(reverse("console:deployment_create"), data)
    deployment = Deployment.objects.get()
    assert (deployment.name, deployment.desired_replicas) == ("tiny", 1)
    taken = client.post(reverse("console:deployment_create"), data)
    assert taken.status_code == 422
    assert "name" in taken.context["form"].errors
    client.post(reverse("console:deployment_scale", args=[deployment.pk]), {"replicas": "3"})
    deployment.refresh_from_db()
    assert deployment.desired_replicas == 3
    client.post(reverse("console:deployment_scale", args=[deployment.pk]), {"replicas": "-1"})
    check_autoscaling(client, deployment)
    client.post(reverse("console:deployment_delete", args=[deployment.pk]))
    deployment.refresh_from_db()
    assert deployment.delete_requested_at is not None


def check_autoscaling(client: Client, deployment: Deployment) -> None:
    """Its form on the page keeps what it does not have, and says what is wrong."""
    page, form = (
        reverse(f"console:{name}", args=[deployment.pk])
        for name in ("deployment", "deployment_autoscaling")
    )
    assert "Setting it by hand" in client.get(page).content.decode()
    values = {"min_replicas": "0", "max_replicas": "6", "target_concurrency": "4"}
    values |= {"scale_down_after_seconds": "60", "idle_seconds": "", "enabled": "on"}
    client.post(form, values)
    row = Autoscaling.objects.get()
    assert (row.enabled, row.min_replicas, row.max_replicas) == (True, 0, 6)
    assert (row.target_concurrency, row.idle_seconds) == (4.0, None)
    assert "0 to 6 replicas at this hour" in client.get(page).content.decode()
    Autoscaling.objects.update(schedule=[{"from": "08:00", "to": "18:00", "min_replicas": 1}])
    client.post(form, values | {"max_replicas": "7"})
    row.refresh_from_db()
    assert (row.max_replicas, len(row.schedule)) == (7, 1)
    refused = client.post(form, values | {"min_replicas": "9"}, follow=True)
    assert "The maximum is less than the minimum." in refused.content.decode()


def test_an_import_is_asked_for(client: Client) -> None:
    data = {
        "name": "Qwen3-0.6B",
        "source_kind": "huggingface",
        "source": "Qwen/Qwen3-0.6B",
        "visibility": "private",
    }
    assert client.post(reverse("console:model_import"), data | {"name": "a b"}).status_code == 422
    assert client.post(reverse("console:model_import"), data).status_code == 302
    assert RevisionImport.objects.get().source == "Qwen/Qwen3-0.6B"


def test_members_are_added_raised_and_removed(client: Client) -> None:
    eve = make_user("eve")
    url = reverse("console:members")
    unknown = client.post(url, {"person": "nobody", "role": "viewer"})
    assert unknown.status_code == 422
    assert 'value="nobody"' in unknown.content.decode()
    client.post(url, {"person": "eve@example.com", "role": "viewer"})
    assert Membership.objects.get(user=eve).role == Role.VIEWER
    client.post(url, {"person": "eve", "role": "admin"})
    assert Membership.objects.get(user=eve).role == Role.ADMIN
    client.post(reverse("console:member_remove", args=[eve.pk]))
    assert not Membership.objects.filter(user=eve).exists()


def test_an_admin_makes_no_owners_and_removes_none() -> None:
    owner = make_member(make_organization(), "ada", Role.OWNER)
    make_member(make_organization(), "second", Role.OWNER)
    client = Client()
    client.force_login(make_member(make_organization(), "adam", Role.ADMIN))
    url = reverse("console:members")
    assert client.post(url, {"person": "adam", "role": "owner"}).status_code == 422
    client.post(url, {"person": "ada", "role": "viewer"})
    client.post(reverse("console:member_remove", args=[owner.pk]))
    assert Membership.objects.get(user=owner).role == Role.OWNER
    assert Membership.objects.get(user__username="adam").role == Role.ADMIN


def test_operators_cordon_a_node() -> None:
    node = make_node(now=NOW)
    client = Client()
    make_organization()
    client.force_login(make_user("op", is_staff=True))
    client.post(reverse("console:node_cordon", args=[node.pk]), {"reason": "new fan"})
    node.refresh_from_db()
    assert node.cordon_reason == "new fan"
    assert node.cordoned_at is not None
    assert "new fan" in client.get(reverse("console:node", args=[node.pk])).content.decode()
    client.post(reverse("console:node_uncordon", args=[node.pk]))
    node.refresh_from_db()
    assert node.cordoned_at is None
