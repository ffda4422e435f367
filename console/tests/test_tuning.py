"""The training wizard, the run's page and the comparison: steps from their URLs, errors beside
their field, one run in the end."""

from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from accounts.choices import Role
from accounts.models import Organization
from accounts.tests.make import NOW, make_member, make_organization
from console.tests.make_training import make_version
from deployments.tests.make import make_node
from models_registry.models import Revision
from models_registry.tests.make import make_revision
from training.models import DatasetVersion, TrainingMetric, TrainingRun, TrainingSample

pytestmark = pytest.mark.django_db

PATH = "/training-runs/new/"


@pytest.fixture
def organization() -> Organization:
    return make_organization()


@pytest.fixture
def client(organization: Organization) -> Client:
    client = Client()
    client.force_login(make_member(organization, "ada", Role.DEVELOPER))
    return client


@pytest.fixture
def base(organization: Organization, tmp_path: Path) -> Revision:
    return make_revision(tmp_path, organization, name="tiny")


@pytest.fixture
def version(organization: Organization) -> DatasetVersion:
    return make_version(organization, now=NOW)


def answers(base: Revision, version: DatasetVersion, /, **more: str) -> dict[str, str]:
    return {
        "base": str(base.pk),
        "data": str(version.pk),
        "train_split": "train",
        "eval_split": "heldout",
        "method": "sft",
        "tuning": "full",
        "accelerators": "1",
        "pool_name": "",
        "name": "first",
        "output_name": "support-tiny",
    } | more


def test_each_step_is_an_address_and_the_first_unsound_one_is_shown(
    client: Client, base: Revision, version: DatasetVersion
) -> None:
    make_node("alpha", pool="local")
    chosen = {"base": str(base.pk), "data": str(version.pk)}

    def step(asked: dict[str, str]) -> str:
        return str(client.get(PATH, asked).context["wizard"].step)

    assert step({}) == "model"
    assert step({"base": str(base.pk)}) == "data"
    assert step(chosen) == "method"
    assert step(chosen | {"step": "where"}) == "where"
    assert step(chosen | {"step": "start"}) == "start"
    assert step({"step": "start"}) == "model"
    assert step(chosen | {"step": "start", "train_split": "nope"}) == "data"
    assert step(chosen | {"step": "start", "epochs": "0"}) == "method"


def test_the_recipe_is_proposed_and_every_value_explained(
    client: Client, base: Revision, version: DatasetVersion
) -> None:
    asked = answers(base, version, step="method", learning_rate="0.0001")
    wizard = client.get(PATH, asked).context["wizard"]
    assert wizard.recipe.key == "tiny-sft-full@1"
    explained = {one["name"]: one for one in wizard.explained}
    assert explained["learning_rate"]["is_own"]
    assert explained["learning_rate"]["value"] == 0.0001
    assert not explained["epochs"]["is_own"]
    assert str(explained["epochs"]["reason"])


def test_where_tells_what_is_known_and_says_what_is_not(
    client: Client, base: Revision, version: DatasetVersion
) -> None:
    make_node("alpha", pool="local")
    page = client.get(PATH, answers(base, version, step="where"))
    (option,) = page.context["wizard"].options
    assert option.pool_name == "local"
    assert "How long: not known" in page.content.decode()
    assert "no price is set" in page.content.decode()


def test_a_run_starts_with_what_was_chosen(
    client: Client, base: Revision, version: DatasetVersion
) -> None:
    typed = {"epochs": "2.5", "max_minutes": "3", "seed": "7"}
    typed |= {"keep_best": "on", "best_metric": "token_accuracy", "early_stopping_patience": "2"}
    answer = client.post(PATH, answers(base, version, **typed))
    run = TrainingRun.objects.get()
    assert answer["Location"] == reverse("console:run", args=[run.pk])
    assert (run.name, run.output_name, run.tuning) == ("first", "support-tiny", "full")
    assert run.recipe == "tiny-sft-full@1"
    given = run.hyperparameters
    assert (given["epochs"], given["max_seconds"], given["seed"]) == (2.5, 180, 7)
    assert given["learning_rate"] == 2e-3
    assert (given["keep_best"], given["best_metric"]) == (True, "token_accuracy")
    assert given["early_stopping_patience"] == 2
    assert given["sample_every_steps"] == given["eval_every_steps"] == 1  # 13 steps in all


@pytest.mark.parametrize(
    ("changes", "step", "field"),
    [
        ({"base": "x"}, "model", "base"),
        ({"train_split": "nope"}, "data", "train_split"),
        ({"method": "dpo"}, "method", "method"),
        ({"learning_rate": "-1"}, "method", "learning_rate"),
        ({"accelerators": "0"}, "where", "accelerators"),
        ({"name": "no blanks"}, "start", "name"),
        ({"output_name": ""}, "start", "output_name"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(
    client: Client,
    base: Revision,
    version: DatasetVersion,
    changes: dict[str, str],
    step: str,
    field: str,
) -> None:
    page = client.post(PATH, answers(base, version, **changes))
    assert page.status_code == 422
    assert page.context["wizard"].step == step
    assert field in page.context["form"].errors
    assert not TrainingRun.objects.exists()


def test_a_run_pauses_resumes_and_shows_its_samples(
    client: Client, base: Revision, version: DatasetVersion
) -> None:
    client.post(PATH, answers(base, version))
    run = TrainingRun.objects.get()
    for step in (1, 2):
        TrainingMetric.objects.create(
            run=run,
            step=step,
            at=NOW,
            loss=1.0,
            learning_rate=1e-4,
            grad_norm=1.0,
            memory_bytes=2**30,
            details={"reward_margin": 0.5},
        )
    TrainingSample.objects.create(
        run=run, step=2, at=NOW, answers=[{"prompt": "Where is it?", "answer": "<b>Here</b>"}]
    )
    page = client.get(reverse("console:run", args=[run.pk]))
    body = page.content.decode()
    assert "&lt;b&gt;Here&lt;/b&gt;" in body
    assert [chart.title for chart in page.context["charts"]] == [
        "Loss by step",
        "Rewards by step, smoothed",
        "Learning rate by step",
        "Gradient norm by step",
        "Memory by step",
    ]
    client.post(reverse("console:run_pause", args=[run.pk]))
    run.refresh_from_db()
    assert run.pause_requested_at is not None
    assert (
        reverse("console:run_resume", args=[run.pk])
        in client.get(reverse("console:run", args=[run.pk])).content.decode()
    )
    client.post(reverse("console:run_resume", args=[run.pk]))
    assert TrainingRun.objects.get(pk=run.pk).pause_requested_at is None
    file = client.get(reverse("console:run_tensorboard", args=[run.pk]))
    assert "attachment" in file["Content-Disposition"]
    client.post(reverse("console:run_cancel", args=[run.pk]))
    run.refresh_from_db()
    assert run.cancel_requested_at is not None


def test_runs_are_compared_on_a_page(
    client: Client, base: Revision, version: DatasetVersion
) -> None:
    for name, rate in (("first", "0.001"), ("second", "0.002")):
        client.post(PATH, answers(base, version, name=name, learning_rate=rate))
    runs = list(TrainingRun.objects.order_by("name"))
    for run in runs:
        TrainingMetric.objects.create(run=run, step=1, at=NOW, loss=1.0, tokens_total=10)
    url = reverse("console:run_compare")
    one = client.get(url, {"run": [str(runs[0].pk)]})
    assert "runs" not in one.context
    both = client.get(url, {"run": [str(run.pk) for run in runs], "by": "tokens"})
    assert [row.label for row in both.context["differing"]] == ["learning_rate"]
    assert "Training loss" in {row.label for row in both.context["outcome"]}
    assert "epochs" in {row.label for row in both.context["same"]}
    assert [line.label for line in both.context["charts"][0].series] == ["first", "second"]


def test_what_cannot_be_chosen_is_grey_and_says_why(
    client: Client, base: Revision, version: DatasetVersion
) -> None:
    make_node("alpha", pool="local")
    page = client.get(PATH, answers(base, version, step="method")).content.decode()
    for value, reason in (("dpo", "Learns from preferences"), ("qlora", "yours are cpu")):
        begin = page.index(f'value="{value}"')
        assert "disabled" in page[begin : page.index(">", begin)]
        assert reason in page[begin : begin + 400]
    data = client.get(PATH, {"base": str(base.pk), "data": str(version.pk), "step": "data"})
    assert '<option value="heldout" selected>' in data.content.decode()


def test_counts_of_accelerators_are_compared_and_one_recommended(
    client: Client, base: Revision, version: DatasetVersion
) -> None:
    make_node("alpha", pool="local", accelerators=2)
    wizard = client.get(PATH, answers(base, version, step="where")).context["wizard"]
    assert [(one.accelerators, one.is_best) for one in wizard.suggestions] == [
        (1, True),
        (2, False),
    ]
