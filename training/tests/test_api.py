import io
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from accounts.choices import Scope
from accounts.tests.make import NOW, make_key, make_organization
from models_registry.tests.make import make_revision
from training import services
from training.models import (
    Checkpoint,
    Dataset,
    Evaluation,
    EvaluationAnswer,
    TrainingEvent,
    TrainingMetric,
    TrainingRun,
)
from training.tests.make import chat_lines, make_run, make_version

pytestmark = pytest.mark.django_db
V1 = "/api/v1"


def client_of(slug: str = "retail", *scopes: Scope) -> APIClient:
    client = APIClient()
    secret = make_key(make_organization(slug), scopes or (Scope.READ, Scope.WRITE))
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def client() -> APIClient:
    return client_of()


def part(data: bytes, name: str = "train.jsonl") -> io.BytesIO:
    file = io.BytesIO(data)
    file.name = name
    return file


def test_a_dataset_is_made_uploaded_and_read_back(client: APIClient) -> None:
    made = client.post(f"{V1}/datasets/", {"name": "tickets"}, format="json")
    assert made.status_code == 201
    path = f"{V1}/datasets/{made.json()['id']}/"
    files = {"train": part(chat_lines(5)), "heldout": part(chat_lines(2, start=50))}
    uploaded = client.post(f"{path}versions/", files, format="multipart")
    assert uploaded.status_code == 201, uploaded.json()
    body = uploaded.json()
    assert (body["number"], body["dataset_name"]) == (1, "tickets")
    assert [(s["name"], s["examples"]) for s in body["splits"]] == [("heldout", 2), ("train", 5)]
    assert body["report"]["is_valid"] is True
    assert client.get(f"{V1}/dataset-versions/{body['id']}/").json() == body
    assert client.get(f"{path}versions/").json()["count"] == 1
    assert client.get(path).json()["version_count"] == 1
    assert [d["name"] for d in client.get(f"{V1}/datasets/").json()["results"]] == ["tickets"]


@pytest.mark.parametrize("size", [3, 30_000])  # in memory; and past 4 MB, in a temporary file
def test_a_bad_upload_answers_with_every_error_by_line(client: APIClient, size: int) -> None:
    dataset = services.create_dataset(organization=make_organization(), name="t", now=NOW)
    bad = chat_lines(size) + b'{"messages": []}\n{"messages": [{"role": "boss", "content": ""}]}\n'
    answer = client.post(
        f"{V1}/datasets/{dataset.pk}/versions/", {"train": part(bad)}, format="multipart"
    )
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("dataset_invalid", "files.train")
    assert error["details"]["errors_total"] == 3
    assert [(e["line"], e["field"], bool(e["remedy"])) for e in error["details"]["errors"]] == [
        (size + 1, "messages", True),
        (size + 2, "messages.0.role", True),
        (size + 2, "messages.0.content", True),
    ]
    assert Dataset.objects.get().versions.count() == 0


def test_odd_uploads_are_refused_by_field(client: APIClient, settings) -> None:
    dataset = services.create_dataset(organization=make_organization(), name="t", now=NOW)
    path = f"{V1}/datasets/{dataset.pk}/versions/"

    def refusal(data: dict) -> tuple[int, str]:
        answer = client.post(path, data, format="multipart")
        return answer.status_code, answer.json()["error"]["field"]

    assert refusal({}) == (400, "files")
    assert refusal({"train": [part(chat_lines(1)), part(chat_lines(1))]}) == (400, "files.train")
    assert refusal({"train": part(chat_lines(1)), "tokenizer_revision": "x"}) == (
        400,
        "tokenizer_revision",
    )
    assert refusal({"train": part(chat_lines(1)), "tokeniser": "x"}) == (400, "tokeniser")
    settings.FACTORY_MAX_UPLOAD_BYTES = -(2**20)
    assert refusal({"train": part(chat_lines(1))}) == (413, "files")


def test_a_run_is_wanted_followed_and_cancelled(client: APIClient, tmp_path: Path) -> None:
    base, version = make_revision(tmp_path), make_version()
    wanted = {
        "name": "tune",
        "base_revision": str(base.pk),
        "dataset_version": str(version.pk),
        "output_name": "tuned",
        "tuning": "full",
        "eval_split": "heldout",
        "hyperparameters": {"epochs": 1},
    }
    made = client.post(f"{V1}/training-runs/", wanted, format="json")
    assert made.status_code == 202, made.json()
    body = made.json()
    assert (body["status"], body["base_revision_name"]) == ("pending", "retail/tiny:1")
    assert body["base_revision"] == str(base.pk)
    assert (body["node_name"], body["result_revision"]) == (None, None)
    assert body["hyperparameters"]["epochs"] == 1
    assert "lease_token" not in body
    run = TrainingRun.objects.get()
    run.log_tail = "step 3"
    run.save()
    for step in (1, 2, 3):
        TrainingMetric.objects.create(run=run, step=step, at=NOW, loss=1 / step)
    TrainingEvent.objects.create(run=run, at=NOW, kind="placed", message="Placed.")
    Checkpoint.objects.create(run=run, step=3, path="/secret", size_bytes=9, created_at=NOW)
    path = f"{V1}/training-runs/{run.pk}/"
    metrics = client.get(f"{path}metrics/?after_step=1").json()["results"]
    assert [metric["step"] for metric in metrics] == [2, 3]
    assert client.get(f"{path}events/").json()["results"][0]["kind"] == "placed"
    checkpoints = client.get(f"{path}checkpoints/").json()["results"]
    assert (checkpoints[0]["step"], "path" in checkpoints[0]) == (3, False)
    assert client.get(f"{path}log/").json() == {"text": "step 3"}
    assert client.get(path).json()["id"] == str(run.pk)
    assert client.get(f"{V1}/training-runs/?status=running").json()["count"] == 0
    cancelled = client.post(f"{path}cancel/")
    assert cancelled.status_code == 202
    assert cancelled.json()["cancel_requested_at"] is not None
    TrainingRun.objects.update(status="failed", cancel_requested_at=None)
    assert client.post(f"{path}cancel/").status_code == 409


def test_a_wrong_hyperparameter_is_named(client: APIClient, tmp_path: Path) -> None:
    base, version = make_revision(tmp_path), make_version()
    wanted = {
        "name": "tune",
        "base_revision": str(base.pk),
        "dataset_version": str(version.pk),
        "output_name": "tuned",
        "hyperparameters": {"learning_rat": 1},
    }
    answer = client.post(f"{V1}/training-runs/", wanted, format="json")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["field"] == "hyperparameters.learning_rat"
    assert "learning_rate" in error["remedy"]
    del wanted["output_name"]
    missing = client.post(f"{V1}/training-runs/", wanted, format="json")
    assert missing.json()["error"]["field"] == "output_name"


def make_evaluation() -> Evaluation:
    evaluation = services.create_evaluation(
        organization=make_organization(),
        name="compare",
        dataset_version_id=make_version(name="more").pk,
        split="heldout",
        model_names=["base", "tuned"],
        now=NOW,
    )
    for name in evaluation.model_names:
        EvaluationAnswer.objects.create(
            evaluation=evaluation,
            model_name=name,
            line=1,
            prompt="?",
            expected="a",
            answer="a",
            is_exact=name == "tuned",
            fields={"intent": True},
        )
    return evaluation


def test_an_evaluation_is_wanted_and_its_answers_read(client: APIClient) -> None:
    version = make_version()
    wanted = {
        "name": "compare",
        "dataset_version": str(version.pk),
        "split": "heldout",
        "models": ["base", "tuned"],
        "limit": 3,
    }
    made = client.post(f"{V1}/evaluations/", wanted, format="json")
    assert made.status_code == 202, made.json()
    assert (made.json()["status"], made.json()["examples_total"]) == ("pending", 3)
    evaluation = make_evaluation()
    path = f"{V1}/evaluations/{evaluation.pk}/"
    answers = client.get(f"{path}answers/").json()
    assert [a["model_name"] for a in answers["results"]] == ["base", "tuned"]
    assert answers["results"][0]["fields"] == {"intent": True}
    wrong = client.get(f"{path}answers/?exact=false").json()["results"]
    assert [a["model_name"] for a in wrong] == ["base"]
    assert client.get(f"{path}answers/?model=tuned").json()["count"] == 1
    assert client.get(f"{V1}/evaluations/").json()["count"] == 2
    assert client.post(f"{path}cancel/").status_code == 202


def own_paths(tmp_path: Path) -> list[tuple[str, str]]:
    """Every path with an id in it, of rows that the first organization has."""
    run, evaluation = make_run(tmp_path), make_evaluation()
    version = run.dataset_version
    runs = f"{V1}/training-runs/{run.pk}/"
    compared = f"{V1}/evaluations/{evaluation.pk}/"
    return [
        ("get", f"{V1}/datasets/{version.dataset_id}/"),
        ("get", f"{V1}/datasets/{version.dataset_id}/versions/"),
        ("post", f"{V1}/datasets/{version.dataset_id}/versions/"),
        ("get", f"{V1}/dataset-versions/{version.pk}/"),
        ("get", f"{V1}/dataset-versions/{version.pk}/findings/"),
        ("get", f"{V1}/dataset-versions/{version.pk}/lines/"),
        ("get", runs),
        *(("get", f"{runs}{leaf}/") for leaf in ("metrics", "events", "checkpoints", "log")),
        ("post", f"{runs}cancel/"),
        ("post", f"{runs}pause/"),
        ("post", f"{runs}resume/"),
        ("get", compared),
        ("get", f"{compared}answers/"),
        ("post", f"{compared}cancel/"),
    ]


def test_another_organization_finds_nothing(tmp_path: Path) -> None:
    paths = own_paths(tmp_path)
    stranger = client_of("bank")
    for method, path in paths:
        call: Callable = getattr(stranger, method)
        assert call(path).status_code == 404, path
        assert call(path.replace(path.split("/")[4], str(uuid4()))).status_code == 404
    for name in ("datasets", "training-runs", "evaluations"):
        assert stranger.get(f"{V1}/{name}/").json()["count"] == 0


def test_readers_change_nothing_and_strangers_see_nothing(tmp_path: Path) -> None:
    reader = client_of("retail", Scope.READ)
    for method, path in own_paths(tmp_path):
        answer = getattr(reader, method)(path)
        assert answer.status_code == (200 if method == "get" else 403), path
        assert getattr(APIClient(), method)(path).status_code == 401
    for name in ("datasets", "training-runs", "evaluations"):
        assert reader.post(f"{V1}/{name}/", {}, format="json").status_code == 403
