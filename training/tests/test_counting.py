"""Tokens counted once more, as another model sees them: asked for once, done by a worker."""

from pathlib import Path

import pytest
from django.test import Client

from accounts.choices import Role
from accounts.tests.make import NOW, make_member, make_organization
from models_registry.tests.make import make_revision
from training import services
from training.choices import CountStatus
from training.models import TokenCount
from training.services import counting
from training.tests.make import make_version
from training.tests.test_datasets import publish_with_tokenizer

pytestmark = pytest.mark.django_db


def test_a_model_counts_once_and_one_that_cannot_says_why(tmp_path: Path) -> None:
    organization = make_organization()
    version = make_version(organization)
    able, unable = publish_with_tokenizer(tmp_path / "able"), make_revision(tmp_path / "unable")
    rows = [
        services.count_tokens(
            organization=organization, version_id=version.pk, revision_id=model.pk, now=NOW
        )
        for model in (able, unable, able)
    ]
    assert rows[0] == rows[2]
    assert set(counting.list_due(now=NOW)) == {rows[0].pk, rows[1].pk}
    for count_id in counting.list_due(now=NOW):
        assert counting.step_count(count_id, now=NOW)
    assert not counting.step_count(rows[0].pk, now=NOW)
    counted, failed = (TokenCount.objects.get(pk=row.pk) for row in rows[:2])
    assert counted.status == CountStatus.READY
    assert counted.splits["train"]["token_count"] > counted.splits["heldout"]["token_count"] > 0
    assert sum(lines for _bound, lines in counted.splits["train"]["histogram"]) == 8
    assert failed.status == CountStatus.FAILED
    assert failed.message
    again = services.count_tokens(
        organization=organization, version_id=version.pk, revision_id=unable.pk, now=NOW
    )
    assert again.status == CountStatus.COUNTING


def test_counts_are_asked_for_and_read_over_rest(tmp_path: Path) -> None:
    organization = make_organization()
    version = make_version(organization)
    model = publish_with_tokenizer(tmp_path)
    client = Client()
    client.force_login(make_member(organization, "ada", Role.DEVELOPER))
    path = f"/api/v1/dataset-versions/{version.pk}/token-counts/"
    asked = client.post(path, {"revision": str(model.pk)}, content_type="application/json")
    assert (asked.status_code, asked.json()["status"]) == (202, "counting")
    counting.step_count(counting.list_due(now=NOW)[0], now=NOW)
    (found,) = client.get(path).json()["results"]
    assert (found["revision"], found["status"]) == (str(model.pk), "ready")
    assert found["splits"]["heldout"]["longest_tokens"] > 0
