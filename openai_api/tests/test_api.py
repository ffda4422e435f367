"""The official client against the views: what it sends is taken, what it gets it can read."""

import io
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from django.test import Client
from django.utils import timezone

from accounts.choices import Scope
from accounts.tests.make import make_key, make_organization
from openai_api import names, reconcile
from openai_api.api.urls import is_ours
from openai_api.models import File, FineTuningJob
from openai_api.tests.make import make_base, make_file, make_job
from openai_api.tests.shapes import is_whole
from training.choices import RunStatus
from training.models import TrainingEvent, TrainingMetric, TrainingRun
from training.tests.make import chat_lines


@pytest.fixture(autouse=True)
def _storage(tmp_path: Path, settings) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")


@pytest.fixture
def client(live_server) -> openai.OpenAI:
    key = make_key(make_organization(), scopes=(Scope.FINE_TUNING,))
    return openai.OpenAI(base_url=f"{live_server.url}/v1", api_key=key, max_retries=0)


def upload(client: openai.OpenAI, content: bytes | None = None, **fields: Any) -> Any:
    return client.files.create(
        file=("support.jsonl", content or chat_lines(4)), **{"purpose": "fine-tune"} | fields
    )


@pytest.mark.django_db(transaction=True)
def test_files_are_kept_listed_read_and_deleted(client: openai.OpenAI) -> None:
    first = is_whole(upload(client))
    assert (first.filename, first.purpose, first.status) == (
        "support.jsonl",
        "fine-tune",
        "processed",
    )
    assert first.bytes == len(chat_lines(4))
    others = [upload(client, f'{{"n": {n}}}\n'.encode(), purpose="batch") for n in range(3)]
    ids = [first.id, *(each.id for each in others)]

    assert [each.id for each in client.files.list()] == ids[::-1]
    assert [each.id for each in client.files.list(limit=2, order="asc")] == ids, "page by page"
    assert [each.id for each in client.files.list(purpose="batch")] == ids[:0:-1]
    assert is_whole(client.files.retrieve(first.id)) == first
    assert client.files.content(first.id).content == chat_lines(4)

    assert client.files.delete(first.id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            call(first.id)
        assert first.id in refused.value.message
    assert first.id not in [each.id for each in client.files.list()]
    assert File.objects.get(pk=str(names.read_id("file", first.id))).blob is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "world-peace"}, "purpose"),
        ({"content": b"a,b\n1,2\n"}, "file"),
        ({"content": b"[1]\n"}, "file"),
        ({"content": b"\xff\xfe{}\n"}, "file"),
        ({"content": b"\n\n"}, "file"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after.seconds"),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        upload(client, **fields)
    assert refused.value.param == param
    assert not File.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_job_is_created_followed_and_cancelled(client: openai.OpenAI, tmp_path: Path) -> None:
    make_base(tmp_path)
    file = upload(client)
    job = is_whole(
        client.fine_tuning.jobs.create(
            model="tiny",
            training_file=file.id,
            suffix="support",
            seed=11,
            metadata={"team": "a"},
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        )
    )
    assert (job.status, job.model, job.seed) == ("validating_files", "tiny", 11)
    assert job.hyperparameters.n_epochs == 2
    assert job.hyperparameters.batch_size == "auto"
    assert (job.metadata, job.result_files, job.error) == ({"team": "a"}, [], None)

    row = FineTuningJob.objects.get(pk=str(names.read_id("ftjob", job.id)))
    reconcile.step_job(row.pk, now=timezone.now())
    row.refresh_from_db()
    assert row.run is not None
    follow(row.run)
    job = is_whole(client.fine_tuning.jobs.retrieve(job.id))
    assert job.status == "running"
    assert job.hyperparameters.batch_size == row.run.hyperparameters["batch_size"]
    assert job.estimated_finish is not None

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert len({each.id for each in events}) == len(events) == 6
    assert events[-1].message == f"Created fine-tuning job: {job.id}"
    assert [each.created_at for each in events] == sorted(
        (each.created_at for each in events), reverse=True
    )
    measured = [each for each in events if each.type == "metrics"]
    assert [each.data["train_loss"] for each in measured] == [1.5, 2.5]
    for each in events:
        is_whole(each)
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data == []

    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def follow(run: TrainingRun) -> None:
    """As an agent writes what a trainer told."""
    now = timezone.now()
    TrainingRun.objects.filter(pk=run.pk).update(
        status=RunStatus.RUNNING, started_at=now, seconds_left=60, total_steps=4
    )
    TrainingEvent.objects.create(run=run, at=now, kind="started")
    TrainingMetric.objects.create(run=run, step=1, at=now, loss=2.5)
    TrainingMetric.objects.create(run=run, step=2, at=now, loss=1.5)


@pytest.mark.django_db(transaction=True)
def test_jobs_are_listed_by_their_metadata(client: openai.OpenAI, tmp_path: Path) -> None:
    marked = [make_job(tmp_path, metadata={"n": str(n % 2), "of": "us"}) for n in range(3)]
    bare = make_job(tmp_path)
    ids = [names.public_id("ftjob", each.pk) for each in (*marked, bare)][::-1]
    jobs = client.fine_tuning.jobs
    assert [each.id for each in jobs.list(limit=1)] == ids
    assert [each.id for each in jobs.list(metadata={"n": "0"})] == [ids[1], ids[3]]
    assert [each.id for each in jobs.list(metadata={"n": "1", "of": "us"})] == [ids[2]]
    assert [each.id for each in jobs.list(extra_query={"metadata": "null"})] == [ids[0]]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-" + "0" * 32}, "validation_file"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"hyperparameters": {"n_epochs": 0}}, "method.supervised.hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 1.5}}, "method.supervised.hyperparameters.n_epochs"),
        ({"hyperparameters": {"beta": 0.1}}, "method.supervised.hyperparameters.beta"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
        ({"extra_body": {"n_epochs": 3}}, "n_epochs"),
        ({"extra_body": {"platform": {"tuning": 3}}}, "platform.tuning"),
    ],
)
def test_what_cannot_be_wanted_is_refused_with_its_name(
    client: openai.OpenAI, tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    make_base(tmp_path)
    file = f"file-{make_file().pk.hex}"
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(**{"model": "tiny", "training_file": file} | fields)
    assert refused.value.param == param
    assert not FineTuningJob.objects.exists()


@pytest.mark.django_db
def test_keys_are_those_of_the_platform_with_a_scope(tmp_path: Path, settings) -> None:
    organization = make_organization()
    job = f"/v1/fine_tuning/jobs/ftjob-{make_job(tmp_path, organization).pk.hex}"

    def ask(method: str, path: str, *scopes: str) -> tuple[int, Any]:
        key = make_key(organization, scopes=scopes) if scopes else "sk-af-0000000000-none"
        client = Client(headers={"Authorization": f"Bearer {key}"})
        answer = getattr(client, method)(path)
        return answer.status_code, (answer.json().get("error") or {}).get("code")

    assert Client().get(job).status_code == 401
    assert ask("get", job) == (401, "invalid_api_key")
    assert ask("get", job, Scope.INFERENCE) == (403, "missing_scope")
    assert ask("get", job, Scope.READ) == (200, None)
    assert ask("post", f"{job}/cancel", Scope.READ) == (403, "missing_scope")
    assert ask("put", job, Scope.WRITE) == (405, "method_not_allowed")
    assert ask("get", "/v1/files/no/such", Scope.WRITE) == (404, "unknown_url")
    assert ask("post", f"{job}/pause", Scope.FINE_TUNING) == (400, "job_not_ready")
    assert ask("post", f"{job}/cancel", Scope.FINE_TUNING) == (200, None)
    stranger = make_key(make_organization("bank"), scopes=(Scope.FINE_TUNING,))
    answer = Client(headers={"Authorization": f"Bearer {stranger}"}).get(job)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")

    settings.OPENAI_API_REQUESTS_PER_MINUTE = 1
    mine = Client(headers={"Authorization": f"Bearer {make_key(organization)}"})
    answers = [mine.get(job) for _ in range(3)]  # a minute may end between two of them
    assert 429 in {answer.status_code for answer in answers}
    last = next(answer for answer in answers if answer.status_code == 429)
    assert 1 <= int(last["Retry-After"]) <= 60


@pytest.mark.django_db
def test_a_key_for_some_models_trains_those_alone(tmp_path: Path) -> None:
    make_base(tmp_path)
    key = make_key(make_organization(), scopes=(Scope.FINE_TUNING,), allowed_models=["other"])
    client = Client(headers={"Authorization": f"Bearer {key}"})
    body = {"model": "tiny", "training_file": f"file-{make_file().pk.hex}"}
    answer = client.post("/v1/fine_tuning/jobs", json.dumps(body), "application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_allowed")


def test_what_the_gateway_leaves_to_these_views() -> None:
    for method, path in (
        ("GET", "/v1/files"),
        ("POST", "/v1/files/"),
        ("GET", "/v1/fine_tuning/jobs/x"),
        ("DELETE", "/v1/models/ft:a:b::c"),
    ):
        assert is_ours(method, path), path
    for method, path in (
        ("GET", "/v1/models/ft:a:b::c"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/filesystem"),
        ("GET", "/v1/x/files"),
    ):
        assert not is_ours(method, path), path


@pytest.mark.django_db
def test_bodies_that_are_no_json_are_refused() -> None:
    client = Client(headers={"Authorization": f"Bearer {make_key(make_organization())}"})
    for body in (b"{", b"[]", b"\xff", b"[" * 100_000):
        answer = client.post("/v1/fine_tuning/jobs", body, "application/json")
        assert answer.status_code == 400, body[:10]
    form = io.BytesIO(b"no form")
    answer = client.post("/v1/files", form, content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 400
