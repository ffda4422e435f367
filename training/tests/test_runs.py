from pathlib import Path
from typing import Any

import pytest

from accounts.models import AuditEvent
from accounts.tests.make import NOW, make_organization
from common.errors import DomainError, InvalidInput, NotFound
from models_registry.tests.make import make_revision
from training import recipes, services
from training.choices import RunStatus
from training.models import TrainingRun
from training.tests.make import make_run, make_version

pytestmark = pytest.mark.django_db


def test_a_run_is_kept_with_all_its_hyperparameters_written_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, hyperparameters={"epochs": 2}, eval_split="heldout")
    assert run.status == RunStatus.PENDING
    assert run.hyperparameters["epochs"] == 2
    assert run.recipe == "tiny-sft-full@1"  # the default for a base of this size
    values = recipes.find(run.recipe).values_for(parameters=run.base_revision.parameter_count)
    kept = {name: run.hyperparameters[name] for name in values}
    assert kept == values | {"epochs": 2}
    assert run.hyperparameters["max_length_tokens"] == 512  # all that the base can read
    assert AuditEvent.objects.filter(action="training_run.create").count() == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"output_name": ""}, "output_name"),
        ({"tuning": "all"}, "tuning"),
        ({"train_split": "trial"}, "train_split"),
        ({"eval_split": "trial"}, "eval_split"),
        ({"accelerators": 0}, "accelerators"),
        ({"hyperparameters": {"epoch": 1}}, "hyperparameters.epoch"),
        ({"hyperparameters": {"epochs": "three"}}, "hyperparameters.epochs"),
        ({"hyperparameters": {"epochs": 0}}, "hyperparameters.epochs"),
        ({"hyperparameters": {"max_length_tokens": 4096}}, "hyperparameters.max_length_tokens"),
    ],
)
def test_refusals_name_the_field_and_a_remedy(
    tmp_path: Path, options: dict[str, object], field: str
) -> None:
    retail = make_organization()
    base, version = make_revision(tmp_path, retail), make_version(retail)
    wanted = {
        "name": "tune",
        "base_revision_id": base.pk,
        "dataset_version_id": version.pk,
        "output_name": "result",
    }
    with pytest.raises(InvalidInput) as refused:
        services.create_training_run(organization=retail, now=NOW, **wanted | options)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert refused.value.remedy
    assert not TrainingRun.objects.exists()


def test_an_adapter_cannot_be_trained_further(tmp_path: Path) -> None:
    base = make_revision(tmp_path)
    adapter = make_revision(tmp_path, name="adapter", kind="adapter", parent=base, seed=1)
    with pytest.raises(InvalidInput) as refused:
        make_run(tmp_path, base_revision_id=adapter.pk)
    assert refused.value.field == "base_revision"


def test_others_bases_and_datasets_do_not_exist_for_us(tmp_path: Path) -> None:
    bank = make_organization("bank")
    base, version = make_revision(tmp_path, bank), make_version(bank)
    for options, field in (
        ({"base_revision_id": base.pk}, "base_revision"),
        ({"dataset_version_id": version.pk}, "dataset_version"),
    ):
        with pytest.raises(NotFound) as refused:
            make_run(tmp_path, None, name=field[:4], **options)
        assert refused.value.field == field
    shared = make_revision(tmp_path, bank, name="shared", visibility="shared", seed=2)
    assert make_run(tmp_path, base_revision_id=shared.pk).base_revision == shared


def test_cancelling_twice_is_cancelling_once(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for _ in range(2):
        services.cancel_training_run(organization=run.organization, run_id=run.pk, now=NOW)
    run.refresh_from_db()
    assert run.cancel_requested_at == NOW
    assert AuditEvent.objects.filter(action="training_run.cancel").count() == 1


def test_what_is_over_or_not_ours_cannot_be_cancelled(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(NotFound):
        services.cancel_training_run(organization=make_organization("bank"), run_id=run.pk, now=NOW)
    TrainingRun.objects.update(status=RunStatus.SUCCEEDED)
    with pytest.raises(DomainError) as refused:
        services.cancel_training_run(organization=run.organization, run_id=run.pk, now=NOW)
    assert refused.value.code == "run_is_over"


def test_a_named_recipe_is_followed_and_what_is_given_wins(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, recipe="sft-full", hyperparameters={"learning_rate": 3e-5, "batch_size": 2}
    )
    assert run.recipe == "sft-full@1"
    assert run.hyperparameters["learning_rate"] == 3e-5
    assert run.hyperparameters["warmup_ratio"] == 0.05
    assert run.hyperparameters["gradient_accumulation"] == 1  # the recipe's goes with its batch


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"recipe": "nobodys"}, "recipe"),
        ({"recipe": "sft-lora"}, "recipe"),  # of another tuning
        ({"method": "dpo"}, "method"),  # the lines are conversations
    ],
)
def test_recipes_and_methods_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_run(tmp_path, **changes)
    assert refused.value.field == field
