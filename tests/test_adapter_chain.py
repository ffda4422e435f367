"""A LoRA result from its training to an answer, by this platform's API and by OpenAI's: attached to
the running base, metered by itself. Both on one platform, whose start takes longest."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from demo.data import write_dataset
from demo.job import MODEL_FOLDER
from demo.rest import Rest
from openai_api.tests.shapes import is_whole
from tests.platform_under_test import RunningPlatform, running_platform

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]

ATTACHED_SECONDS = 10.0  # 2 s are promised on a quiet node; test machines are loaded
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
NEVER = {"failed", "cancelled"}
ENGINE = "engines.transformers_server"


@dataclass
class Served:
    """A platform with a base that is registered and on its way to be served as `tiny`."""

    platform: RunningPlatform
    rest: Rest
    client: openai.OpenAI
    base: dict[str, Any]
    deployment: dict[str, Any]

    def wait_for_base(self) -> None:
        path = f"deployments/{self.deployment['id']}/"
        self.rest.wait(path, until={"ready"}, never=NEVER, seconds=90)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with running_platform("--pool", "local") as platform:
        key = platform.keys()["retail"]
        rest = Rest(base_url=platform.base_url, key=key)
        imported = rest.post(
            "imports/", {"name": "tiny", "source_kind": "folder", "source": str(MODEL_FOLDER)}
        )
        rest.wait(f"imports/{imported['id']}/", until={"succeeded"}, never={"failed"}, seconds=60)
        model = rest.named("models/", "tiny")
        assert model is not None
        base = rest.rows(f"models/{model['id']}/revisions/")[0]
        deployment = rest.post("deployments/", {"name": "tiny", "revision": base["id"]})
        client = openai.OpenAI(base_url=f"{platform.base_url}/v1", api_key=key, timeout=60)
        yield Served(platform, rest, client, base, deployment)


def test_a_lora_result_is_attached_to_the_running_base_and_metered_by_itself(
    served: Served, tmp_path: Path
) -> None:
    rest, client = served.rest, served.client
    run = rest.post(
        "training-runs/",
        {
            "name": "lora",
            "base_revision": served.base["id"],
            "dataset_version": upload(rest, served.base["id"], tmp_path)["id"],
            "output_name": "tiny-lora",
            "tuning": "lora",
            "accelerators": 1,
            "hyperparameters": {"epochs": 1, "max_seconds": 20, "learning_rate": 2e-3},
        },
    )
    run = rest.wait(f"training-runs/{run['id']}/", until={"succeeded"}, never=NEVER, seconds=150)
    served.wait_for_base()
    (engine,) = served.platform.node_processes(ENGINE)

    began = time.monotonic()
    adapter = rest.post("deployments/", {"name": "lora", "revision": run["result_revision"]})
    rest.wait(f"deployments/{adapter['id']}/", until={"ready"}, never=NEVER, seconds=30)
    took = time.monotonic() - began
    print(f"attached after {took:.2f} s")  # noqa: T201 - shown with -s
    assert took < ATTACHED_SECONDS
    assert [each.pid for each in served.platform.node_processes(ENGINE)] == [engine.pid], (
        "the engine was started again"
    )

    said = {name: ask(client, name) for name in ("tiny", "lora")}
    texts = {name: answer.choices[0].message.content for name, answer in said.items()}
    assert texts["tiny"] != texts["lora"]
    assert said["lora"].model == "lora"
    tokens = metered(rest, {name: answer.usage.completion_tokens for name, answer in said.items()})
    assert tokens == {name: answer.usage.completion_tokens for name, answer in said.items()}


def test_openais_client_fine_tunes_a_model_and_calls_it_by_its_name(
    served: Served, tmp_path: Path
) -> None:
    client = served.client
    lines = write_dataset("retail-support", tmp_path, train=48, heldout=8, harder=8)
    files = {name: client.files.create(file=lines[name], purpose="fine-tune") for name in lines}
    served.wait_for_base()
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=files["train"].id,
        validation_file=files["heldout"].id,
        suffix="support",
        seed=7,
        metadata={"team": "a"},
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 2,
                    "batch_size": 8,
                    "learning_rate_multiplier": 0.5,
                }
            },
        },
    )
    job = wait_for(client, job.id)
    assert job.status == "succeeded", job.error
    assert (is_whole(job).seed, job.metadata, job.hyperparameters.n_epochs) == (7, {"team": "a"}, 2)
    name = job.fine_tuned_model
    assert name is not None
    assert name.startswith("ft:tiny:retail:support:")

    # at once: no waiting in between
    answer = ask(client, name)
    assert answer.model == name
    assert answer.choices[0].message.content != ask(client, "tiny").choices[0].message.content

    events = [is_whole(each) for each in client.fine_tuning.jobs.list_events(job.id, limit=5)]
    assert len({each.id for each in events}) == len(events) > 15, "page by page"
    assert events[0].message == "The job has successfully completed"
    losses = [each.data["train_loss"] for each in events if each.type == "metrics"]
    assert losses[0] < losses[-1], "newest first: it has learnt"
    assert job.trained_tokens

    measured = [each.data for each in events if each.type == "metrics"]
    assert sum("valid_loss" in data for data in measured) == 6, "every other step"
    checkpoints = [is_whole(each) for each in client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert [(each.step_number, each.fine_tuned_model_checkpoint) for each in checkpoints] == [
        (12, name),
        (6, f"{name}:ckpt-step-6"),
    ]
    last, first = (each.metrics for each in checkpoints)
    assert last.valid_loss < first.valid_loss
    assert 0 < first.valid_mean_token_accuracy < last.valid_mean_token_accuracy < 1
    assert ask(client, f"{name}:ckpt-step-6").model == f"{name}:ckpt-step-6"
    assert {"tiny", name} <= {model.id for model in client.models.list()}

    rows = client.files.content(job.result_files[0]).text.splitlines()
    assert rows[0].split(",")[:3] == ["step", "train_loss", "valid_loss"]
    assert len(rows) == 13
    assert client.models.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        ask(client, name)


def test_a_preference_job_rests_goes_on_and_answers_though_its_base_sleeps(
    served: Served, tmp_path: Path
) -> None:
    """Nothing serves this base until the first request for what was made of it."""
    client, rest = served.client, served.rest
    imported = rest.post(
        "imports/", {"name": "resting", "source_kind": "folder", "source": str(MODEL_FOLDER)}
    )
    rest.wait(f"imports/{imported['id']}/", until={"succeeded"}, never={"failed"}, seconds=60)
    files = {
        name: client.files.create(file=path, purpose="fine-tune") for name, path in pairs(tmp_path)
    }
    jobs = client.fine_tuning.jobs
    job = jobs.create(
        model="resting",
        training_file=files["train"].id,
        validation_file=files["heldout"].id,
        suffix="json",
        seed=3,
        method={
            "type": "dpo",
            "dpo": {"hyperparameters": {"n_epochs": 6, "batch_size": 4, "beta": 0.2}},
        },
    )
    until(lambda: is_measured(client, job.id), "nothing was measured")
    paused = jobs.pause(job.id)
    assert is_whole(paused).status == "paused"
    until(lambda: not trains(served), "it still trains")
    until(lambda: held(rest) == {"serving"}, "accelerators are held")
    assert is_whole(jobs.retrieve(job.id)).status == "paused"
    told = len(list(jobs.list_events(job.id)))
    resumed = jobs.resume(job.id)
    assert is_whole(resumed).status in {"queued", "running"}
    assert client.files.delete(files["train"].id).deleted, "what was made of it stays"

    job = wait_for(client, job.id)
    assert job.status == "succeeded", job.error
    assert is_whole(job).method.dpo.hyperparameters.beta == 0.2
    events = [is_whole(each) for each in jobs.list_events(job.id)]
    assert len(events) > told
    steps = [each.data["step"] for each in events if each.type == "metrics"]
    assert steps == list(range(60, 0, -1)), "each step once, whatever came between"
    valid = [each.data["valid_loss"] for each in events if "valid_loss" in each.data]
    assert valid[0] < 0.5, "of log 2, where it began"

    engines = served.platform.node_processes(ENGINE)
    answer = ask(client, job.fine_tuned_model)
    assert answer.model == job.fine_tuned_model
    assert answer.usage.completion_tokens > 0
    assert len(served.platform.node_processes(ENGINE)) == len(engines) + 1, "its base was woken"


def test_a_job_is_cancelled_and_a_bad_file_is_told_by_line(served: Served, tmp_path: Path) -> None:
    client, jobs = served.client, served.client.fine_tuning.jobs
    lines = write_dataset("retail-support", tmp_path, train=48, heldout=8, harder=8)
    good = client.files.create(file=lines["train"], purpose="fine-tune")
    bad = client.files.create(
        file=("bad.jsonl", lines["heldout"].read_bytes() + b'{"messages": []}\n'),
        purpose="fine-tune",
    )
    long = jobs.create(
        model="tiny", training_file=good.id, hyperparameters={"n_epochs": 100, "batch_size": 1}
    )
    refused = jobs.create(model="tiny", training_file=bad.id)
    until(lambda: is_measured(client, long.id), "nothing was measured")
    assert is_whole(jobs.cancel(long.id)).status == "cancelled"
    until(lambda: not trains(served), "it still trains")
    until(lambda: held(served.rest) == {"serving"}, "accelerators are held")
    assert wait_for(client, long.id).fine_tuned_model is None
    with pytest.raises(openai.BadRequestError):
        jobs.pause(long.id)

    job = is_whole(wait_for(client, refused.id))
    assert (job.status, job.error.code, job.error.param) == (
        "failed",
        "invalid_training_file",
        "training_file",
    )
    assert "line 9" in job.error.message
    wrong = [each for each in jobs.list_events(job.id) if each.level == "error"]
    assert 9 in [is_whole(each).data.get("line") for each in wrong]
    assert [each.id for each in jobs.list(limit=1)][:2] == [refused.id, long.id], "page by page"


def pairs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of preferences: a message's own JSON to another message's."""
    paths = write_dataset("retail-support", folder, train=40, heldout=8, harder=8)
    for name in ("train", "heldout"):
        rows = [json.loads(line)["messages"] for line in paths[name].read_text().splitlines()]
        lines = [
            {
                "input": {"messages": row[:-1]},
                "preferred_output": row[-1:],
                "non_preferred_output": other[-1:],
            }
            for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
        ]
        paths[name].write_text("".join(json.dumps(line) + "\n" for line in lines))
        yield name, paths[name]


def is_measured(client: openai.OpenAI, job_id: str) -> bool:
    page = client.fine_tuning.jobs.list_events(job_id, limit=10)
    return any(each.type == "metrics" for each in page.data)


def trains(served: Served) -> bool:
    return bool(served.platform.node_processes("trainer"))


def held(rest: Rest) -> set[str]:
    """What the accelerators are held by that are not free."""
    return {row["purpose"] for row in rest.rows("allocations/") if row["released_at"] is None}


def until(holds: Callable[[], bool], problem: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, problem
        time.sleep(0.2)


def wait_for(client: openai.OpenAI, job_id: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in {"succeeded", "failed", "cancelled"} or time.monotonic() > deadline:
            return job
        time.sleep(0.5)


def ask(client: openai.OpenAI, model: str) -> Any:
    return client.chat.completions.create(model=model, messages=HELLO, max_tokens=24, temperature=0)


def upload(rest: Rest, tokenizer: str, folder: Path) -> Any:
    files = write_dataset("retail-support", folder, train=200, heldout=20, harder=10)
    dataset = rest.post("datasets/", {"name": "retail"})
    path = f"datasets/{dataset['id']}/versions/"
    return rest.upload(path, files, {"tokenizer_revision": tokenizer})


def metered(rest: Rest, expected: dict[str, int]) -> dict[str, int]:
    """Output tokens by model on the statement, once they are there."""
    month = time.strftime("%Y-%m", time.gmtime())
    deadline = time.monotonic() + 30
    while True:
        lines = rest.get("statement/", month=month)["lines"]
        found = {
            line["model_name"]: int(float(line["quantity"]))
            for line in lines
            if line["item"] == "output_tokens"
        }
        if found == expected or time.monotonic() > deadline:
            return found
        time.sleep(0.5)
