"""Plans: what is known is told as a range with its origin, what is not is nothing."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.test import Client

from accounts.models import Organization
from accounts.tests.make import NOW, make_key, make_organization
from chips import services as chips_services
from chips.choices import PriceItem
from chips.models import AcceleratorType, PriceEntry
from chips.tests.make import make_allocation, make_node, seen_cpu
from common.errors import InvalidInput
from models_registry.models import Revision
from models_registry.tests.make import make_revision
from training import plans
from training.models import DatasetVersion, TrainingMetric
from training.plans import TrainingPlan
from training.tests.make import make_run, make_version

pytestmark = pytest.mark.django_db


@pytest.fixture
def organization() -> Organization:
    return make_organization()


@pytest.fixture
def base(organization: Organization, tmp_path: Path) -> Revision:
    row = make_revision(tmp_path, organization, name="plan-base")
    row.facts = row.facts | {
        "layers": 28,
        "hidden_size": 1024,
        "attention_heads": 16,
        "key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocabulary": 151_936,
    }
    row.parameter_count, row.dtype = 596_000_000, "bfloat16"
    row.save()
    return row


@pytest.fixture
def version(organization: Organization) -> DatasetVersion:
    row = make_version(organization)
    row.splits.filter(name="train").update(examples=160, token_count=50_000, longest_tokens=400)
    return row


def plan(base: Revision, version: DatasetVersion, **asked: object) -> TrainingPlan:
    return plans.plan_training(
        organization=version.dataset.organization,
        base_revision_id=base.pk,
        dataset_version_id=version.pk,
        now=NOW,
        **asked,  # type: ignore[arg-type]
    )


def big_node() -> None:
    make_node("alpha", pool="local", accelerators=[seen_cpu(0, memory_bytes=64 * 2**30)])


def price(item: str, amount: str) -> None:
    PriceEntry.objects.create(
        item=item, unit_price=Decimal(amount), currency="EUR", valid_from=NOW - timedelta(days=1)
    )


def test_what_nobody_knows_is_told_as_nothing(base: Revision, version: DatasetVersion) -> None:
    big_node()
    AcceleratorType.objects.update(bf16_flops=None)
    answer = plan(base, version)
    assert (answer.examples, answer.tokens, answer.steps) == (160, 150_000, 30)
    assert answer.asked.recipe_key == "qwen3-sft-lora@1"
    (option,) = answer.options
    assert option.speed is None
    assert option.speed_from == ""
    assert option.seconds is None
    assert option.price is None
    version.splits.update(token_count=None)
    assert plan(base, version).tokens is None


def test_a_rate_gives_a_wide_range_and_earlier_runs_a_narrow_one(
    base: Revision, version: DatasetVersion, tmp_path: Path
) -> None:
    big_node()
    AcceleratorType.objects.update(bf16_flops=10**12)
    price(PriceItem.ACCELERATOR_HOUR, "2")
    price(PriceItem.TRAINING_TOKENS, "4")
    (rated,) = plan(base, version).options
    assert rated.speed_from == plans.FROM_RATE
    assert rated.speed is not None
    assert rated.speed.high == pytest.approx(5 * rated.speed.low)
    run = make_run(tmp_path, make_organization("other"), name="earlier", tuning="lora")
    run.base_revision = base
    run.allocation = make_allocation(holder_id=run.pk)
    run.save()
    chips_services.release(allocation_id=run.allocation.pk, reason="over", now=NOW)
    for step, speed in enumerate((90.0, 110.0)):
        TrainingMetric.objects.create(run=run, step=step, at=NOW, tokens_per_second=speed)
    (measured,) = plan(base, version).options
    assert measured.speed_from == plans.MEASURED
    assert measured.seconds is not None
    assert (measured.seconds.low, measured.seconds.high) == (1250, 1875)  # 80 to 120 a second
    assert measured.price is not None
    assert float(measured.price.low) == pytest.approx(2 * 1250 / 3600 + 4 * 0.15)
    assert float(measured.price.high) == pytest.approx(2 * 1875 / 3600 + 4 * 0.15)
    (full,) = plan(base, version, tuning="full").options
    assert full.speed_from == plans.FROM_RATE  # another tuning has other speeds


def test_a_pool_says_why_a_run_does_not_fit(base: Revision, version: DatasetVersion) -> None:
    node = make_node("alpha", pool="local")
    node.accelerators.update(memory_bytes=4 * 10**9)
    answer = plan(base, version, tuning="full")
    assert answer.memory is not None
    assert answer.memory.total_bytes > 4 * 10**9
    (option,) = answer.options
    assert not option.fits
    assert not option.may_wait
    assert "memory" in " ".join(option.reasons).lower() or "GiB" in " ".join(option.reasons)


def test_a_plan_is_refused_as_the_run_would_be(base: Revision, version: DatasetVersion) -> None:
    with pytest.raises(InvalidInput) as refused:
        plan(base, version, hyperparameters={"epochs": 0})
    assert refused.value.field == "hyperparameters.epochs"


def test_rest_answers_with_plans_and_recipes(base: Revision, version: DatasetVersion) -> None:
    big_node()
    client = Client(headers={"Authorization": f"Bearer {make_key(version.dataset.organization)}"})
    asked = {"base_revision": str(base.pk), "dataset_version": str(version.pk)}
    answer = client.post("/api/v1/training-plans/", asked, content_type="application/json")
    assert answer.status_code == 200
    body = answer.json()
    assert body["recipe"] == "qwen3-sft-lora@1"
    assert body["hyperparameters"]["learning_rate"] == 1e-4
    assert body["memory"]["total_bytes"] > 1e9
    assert [option["pool_name"] for option in body["options"]] == ["local"]
    rows = client.get("/api/v1/training-recipes/?method=dpo&tuning=full").json()
    assert [row["id"] for row in rows] == ["dpo-full@1", "tiny-dpo-full@1"]
    settings = {row["name"]: row for row in rows[0]["settings"]}
    assert settings["learning_rate"]["value"] == 5e-7
    assert settings["learning_rate"]["source"]
    assert client.get("/api/v1/training-recipes/?parameters=x").status_code == 200
