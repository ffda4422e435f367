"""Jobs from files to a model under its name, with runs whose end the test says."""

import json
from pathlib import Path

import pytest

from accounts.tests.make import NOW, make_organization
from deployments.models import Deployment, Route
from models_registry.choices import RevisionKind
from models_registry.models import Revision
from models_registry.tests.make import make_adapter_revision, make_revision
from openai_api import base_models, names, planning, reconcile, selectors, services
from openai_api.choices import JobStatus
from openai_api.models import FineTuningJob, JobEvent
from openai_api.services.files import open_file
from openai_api.tests.make import make_base, make_file, make_job
from training import recipes
from training.choices import RunStatus
from training.models import DatasetVersion, TrainingMetric, TrainingRun
from training.tests.make import chat_lines

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _storage(tmp_path: Path, settings) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")


def step(job: FineTuningJob) -> FineTuningJob:
    reconcile.step_job(job.pk, now=NOW)
    return selectors.get_job(job.organization, job.pk)


def finish(job: FineTuningJob, tmp_path: Path, *, kind: str = RevisionKind.ADAPTER) -> Revision:
    """The run's end, as an agent would have written it."""
    run = job.run
    assert run is not None
    if kind == RevisionKind.ADAPTER:
        result = make_adapter_revision(tmp_path, job.base_revision, name=run.output_name, seed=9)
    else:
        result = make_revision(tmp_path, name=run.output_name, kind=kind, parent=job.base_revision)
    TrainingMetric.objects.create(run=run, step=1, at=NOW, loss=2.5)
    TrainingMetric.objects.create(run=run, step=2, at=NOW, loss=1.5, eval_loss=1.75)
    TrainingRun.objects.filter(pk=run.pk).update(
        status=RunStatus.SUCCEEDED, result_revision=result, step=2, tokens_total=321
    )
    return result


def test_files_become_a_dataset_version_and_a_run(tmp_path: Path) -> None:
    organization = make_organization()
    held_out = make_file(organization, chat_lines(3, start=50), filename="held.jsonl")
    job = make_job(
        tmp_path,
        validation_file=f"file-{held_out.pk.hex}",
        hyperparameters={"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5},
        metadata={"team": "retail"},
    )
    assert selectors.status_of(job) == "validating_files"

    job = step(job)

    run = job.run
    assert (job.status, selectors.status_of(job)) == (JobStatus.TRAINING, "queued")
    assert (run.method, run.tuning, run.status) == ("sft", "lora", RunStatus.PENDING)
    assert (run.train_split, run.eval_split) == ("train", "validation")
    assert {split.name: split.examples for split in run.dataset_version.splits.all()} == {
        "train": 8,
        "validation": 3,
    }
    values = run.hyperparameters
    assert (values["epochs"], values["batch_size"], values["seed"]) == (2.0, 4, 7)
    usual = recipes.usual_rate(method="sft", tuning="lora", base=job.base_revision)
    assert values["learning_rate"] == pytest.approx(0.5 * usual)
    assert planning.shown_hyperparameters(job)["learning_rate_multiplier"] == 0.5
    assert step(job).run == run, "a second step makes no second run"


@pytest.mark.parametrize(("method", "steps"), [("supervised", 30), ("dpo", 10)])
def test_what_is_left_to_the_platform_is_as_the_recipe_says(
    tmp_path: Path, method: str, steps: int
) -> None:
    """And so are the steps at which the validation file is measured."""
    organization = make_organization()
    pairs = b"".join(
        json.dumps(
            {
                "input": {"messages": [{"role": "user", "content": f"Where is {n}?"}]},
                "preferred_output": [{"role": "assistant", "content": "There."}],
                "non_preferred_output": [{"role": "assistant", "content": "No."}],
            }
        ).encode()
        + b"\n"
        for n in range(80)
    )
    lines = {"supervised": chat_lines(80), "dpo": pairs}[method]
    train = make_file(organization, lines)
    held_out = make_file(organization, lines.splitlines(keepends=True)[0])
    job = step(
        make_job(
            tmp_path,
            training_file=f"file-{train.pk.hex}",
            validation_file=f"file-{held_out.pk.hex}",
            method=method,
        )
    )
    assert job.run is not None, job.error
    values = job.run.hyperparameters
    recipe = recipes.find(job.run.recipe)
    assert recipe.values_for(parameters=job.base_revision.parameter_count).items() <= values.items()
    assert values["eval_every_steps"] == steps // 5
    shown = planning.shown_hyperparameters(job)
    assert shown["learning_rate_multiplier"] == 1
    assert shown["batch_size"] == recipe.examples_a_step.value


def test_two_jobs_on_the_same_file_share_its_dataset(tmp_path: Path) -> None:
    job = step(make_job(tmp_path))
    again = step(make_job(tmp_path, model="tiny", training_file=f"file-{job.training_file_id.hex}"))
    assert again.run != job.run
    assert again.run.dataset_version == job.run.dataset_version
    assert DatasetVersion.objects.count() == 1


def test_a_bad_line_fails_the_job_with_the_file_and_the_line_named(tmp_path: Path) -> None:
    organization = make_organization()
    bad = make_file(organization, chat_lines(3, start=90) + b'{"messages": []}\n')
    job = step(make_job(tmp_path, validation_file=f"file-{bad.pk.hex}"))
    assert job.status == JobStatus.FAILED
    assert job.run is None
    assert (job.error["code"], job.error["param"]) == (
        "invalid_validation_file",
        "validation_file",
    )
    assert "line 4" in job.error["message"]
    told = JobEvent.objects.filter(job=job, level="error").order_by("pk").first()
    assert told.data["line"] == 4


def test_a_file_that_is_deleted_meanwhile_fails_the_job(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    services.delete_file(organization=job.organization, file_id=job.training_file_id, now=NOW)
    job = step(job)
    assert (job.status, job.error["code"]) == (JobStatus.FAILED, "invalid_training_file")


def test_what_training_refuses_fails_the_job_with_its_reason(tmp_path: Path) -> None:
    job = step(make_job(tmp_path, platform={"tuning": "origami"}))
    assert job.status == JobStatus.FAILED
    assert job.error["param"] == "tuning"


def test_an_adapter_answers_to_its_name_beside_a_base_that_sleeps(tmp_path: Path) -> None:
    job = step(make_job(tmp_path))
    result = finish(job, tmp_path)
    assert selectors.status_of(selectors.get_job(job.organization, job.pk)) == "running"

    job = step(job)

    assert job.status == JobStatus.SUCCEEDED
    served = Deployment.objects.get(name=job.fine_tuned_model)
    assert served.revision == result
    assert served.host.revision == job.base_revision
    assert (served.host.desired_replicas, served.host.autoscaling.min_replicas) == (0, 0)
    assert Route.objects.of(job.organization).filter(name=job.fine_tuned_model).exists()
    assert job.result_file is not None
    with open_file(job.result_file) as file:
        lines = file.read().decode().splitlines()
    assert lines[0].startswith("step,train_loss,valid_loss")
    assert lines[2].startswith("2,1.5,1.75")
    (snapshot,) = selectors.list_snapshots(job)
    assert (snapshot.name, snapshot.step) == (job.fine_tuned_model, 2)
    assert (snapshot.train_loss, snapshot.valid_loss) == (1.5, 1.75)

    other = step(make_job(tmp_path, model="tiny"))
    finish(other, tmp_path)
    other = step(other)
    assert Deployment.objects.get(name=other.fine_tuned_model).host == served.host


def test_checkpoints_that_were_published_have_names_of_their_own(tmp_path: Path) -> None:
    job = step(make_job(tmp_path))
    early = make_adapter_revision(tmp_path, job.base_revision, name=job.run.output_name)
    early.lineage = {"training_run": {"id": str(job.run.pk)}, "checkpoint_step": 1}
    early.save()
    result = finish(job, tmp_path)
    assert early != result
    job = step(job)
    name = names.checkpoint_name(job.fine_tuned_model, 1)
    assert [each.name for each in selectors.list_snapshots(job)] == [job.fine_tuned_model, name]
    assert Deployment.objects.get(name=name).revision == early
    assert selectors.find_result(job.organization, name) == early


def test_whole_weights_get_a_deployment_of_their_own_that_sleeps(tmp_path: Path) -> None:
    job = step(make_job(tmp_path, platform={"tuning": "full"}))
    finish(job, tmp_path, kind=RevisionKind.FULL)
    job = step(job)
    served = Deployment.objects.get(name=job.fine_tuned_model)
    assert (served.host, served.desired_replicas) == (None, 0)
    assert served.autoscaling.enabled


def test_training_goes_on_from_a_fine_tuned_model_by_its_name(tmp_path: Path) -> None:
    job = step(make_job(tmp_path))
    result = finish(job, tmp_path)
    job = step(job)
    found = base_models.find(job.organization, job.fine_tuned_model)
    assert found == (job.base_revision, result)
    again = make_job(tmp_path, model=job.fine_tuned_model, suffix="more")
    assert again.fine_tuned_model.startswith("ft:tiny:retail:more:")
    assert step(again).run.init_revision == result


@pytest.mark.parametrize(
    "name", ["tiny", "retail/tiny", "tiny:1", "retail/tiny:1", "tiny@champion"]
)
def test_a_base_has_several_names(tmp_path: Path, name: str) -> None:
    base = make_base(tmp_path)
    base.registered_model.aliases.create(name="champion", revision=base, moved_at=NOW)
    assert base_models.find(make_organization(), name) == (base, None)
    for unknown in ("tiny:2", "bank/tiny", "tiny@none", "tiny:x", "", "ft:tiny:retail::abcdefgh"):
        with pytest.raises(base_models.NoSuchModel):
            base_models.find(make_organization(), unknown)
    with pytest.raises(base_models.NoSuchModel):
        base_models.find(make_organization("bank"), name)


def test_a_job_is_cancelled_before_and_after_its_files_were_read(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job = services.cancel_job(organization=job.organization, job_id=job.pk, now=NOW)
    assert selectors.status_of(job) == "cancelled"
    assert step(job).status == JobStatus.CANCELLED

    other = step(make_job(tmp_path, model="tiny"))
    other = services.cancel_job(organization=other.organization, job_id=other.pk, now=NOW)
    assert other.run.cancel_requested_at == NOW
    assert selectors.status_of(other) == "cancelled"

    failed = step(make_job(tmp_path, model="tiny", platform={"tuning": "origami"}))
    for act in (services.cancel_job, services.pause_job, services.resume_job):
        with pytest.raises(services.JobIsOver):
            act(organization=failed.organization, job_id=failed.pk, now=NOW)


def test_a_job_is_paused_and_resumed(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with pytest.raises(services.JobNotReady):
        services.pause_job(organization=job.organization, job_id=job.pk, now=NOW)
    job = step(job)
    job = services.pause_job(organization=job.organization, job_id=job.pk, now=NOW)
    assert job.run.pause_requested_at == NOW
    assert selectors.status_of(job) == "paused"
    TrainingRun.objects.filter(pk=job.run.pk).update(status=RunStatus.PAUSED)
    assert list(selectors.list_unsettled()) == []
    job = services.resume_job(organization=job.organization, job_id=job.pk, now=NOW)
    assert (job.run.pause_requested_at, selectors.status_of(job)) == (None, "queued")


def test_a_failed_run_fails_the_job_with_its_reason(tmp_path: Path) -> None:
    job = step(make_job(tmp_path))
    TrainingRun.objects.filter(pk=job.run.pk).update(
        status=RunStatus.FAILED, status_reason="nan_loss", message="step 3: loss nan"
    )
    job = step(job)
    assert job.status == JobStatus.FAILED
    assert job.error == {"code": "nan_loss", "message": "step 3: loss nan", "param": None}


def test_only_jobs_of_which_something_is_to_be_done_are_swept(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert list(selectors.list_unsettled()) == [job]
    job = step(job)
    assert list(selectors.list_unsettled()) == []
    finish(job, tmp_path)
    assert list(selectors.list_unsettled()) == [job]
    step(job)
    assert list(selectors.list_unsettled()) == []
