"""Variants: equal content is one row, and replicas follow it."""

from dataclasses import replace
from pathlib import Path

import pytest

from accounts.tests.make import NOW
from deployments import variants
from deployments.models import Variant
from deployments.tests.make import make_deployment

pytestmark = pytest.mark.django_db


def test_equal_content_is_one_variant_and_a_change_back_finds_the_old_one(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, settings={"max_waiting": 1, "max_concurrency": 2})
    first = variants.ensure_served(deployment, now=NOW)
    deployment.settings = {"max_concurrency": 2, "max_waiting": 1}  # the same in another order
    assert variants.ensure_served(deployment, now=NOW) == first
    content = variants.Content.of(deployment)
    second = variants.ensure(deployment, replace(content, slots_per_replica=2), now=NOW)
    assert (first.number, second.number, second.slots_per_replica) == (1, 2, 2)
    assert variants.ensure(deployment, content, now=NOW) == first
    assert Variant.objects.count() == 2


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "other"},
        {"slots_per_replica": 3},
        {"accelerators_per_replica": 1},
        {"pool_name": "far"},
        {"settings": {"max_waiting": 1}},
    ],
)
def test_every_part_of_the_content_makes_another_variant(tmp_path: Path, change: dict) -> None:
    content = variants.Content.of(make_deployment(tmp_path))
    assert replace(content, **change).digest != content.digest
