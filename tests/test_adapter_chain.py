"""A LoRA result from its training to an answer, by this platform's API and by OpenAI's: attached to
the running base, metered by itself. Both on one platform, whose start takes longest."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from demo.data import write_dataset
from demo.job import MODEL_FOLDER
from demo.rest import Rest
from tests.platform_under_test import RunningPlatform, running_platform

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]

ATTACHED_SECONDS = 10.0  # 2 s are promised on a quiet node; test machines are loaded
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]
NEVER = {"failed", "cancelled"}


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
    (engine,) = served.platform.node_processes("engines.transformers_server")

    began = time.monotonic()
    adapter = rest.post("deployments/", {"name": "lora", "revision": run["result_revision"]})
    rest.wait(f"deployments/{adapter['id']}/", until={"ready"}, never=NEVER, seconds=30)
    took = time.monotonic() - began
    print(f"attached after {took:.2f} s")  # noqa: T201 - shown with -s
    assert took < ATTACHED_SECONDS
    assert [each.pid for each in served.platform.node_processes("engines.transformers_server")] == [
        engine.pid
    ], "the engine was started again"

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
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 2,
                    "batch_size": 8,
                    "learning_rate_multiplier": 10,
                }
            },
        },
    )
    job = wait_for(client, job.id)
    assert job.status == "succeeded", job.error
    name = job.fine_tuned_model
    assert name is not None
    assert name.startswith("ft:tiny:retail:support:")

    # at once: no waiting in between
    answer = ask(client, name)
    assert answer.model == name
    assert answer.choices[0].message.content != ask(client, "tiny").choices[0].message.content

    events = list(client.fine_tuning.jobs.list_events(job.id))
    assert events[0].message == "The job has successfully completed"
    losses = [each.data["train_loss"] for each in events if each.type == "metrics"]
    assert losses[0] < losses[-1], "newest first: it has learnt"
    assert job.trained_tokens

    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [(each.step_number, each.fine_tuned_model_checkpoint) for each in checkpoints] == [
        (12, name),
        (6, f"{name}:ckpt-step-6"),
    ]
    last, first = (each.metrics.valid_loss for each in checkpoints)
    assert last is not None
    assert first is not None
    assert last < first
    assert ask(client, f"{name}:ckpt-step-6").model == f"{name}:ckpt-step-6"
    assert {"tiny", name} <= {model.id for model in client.models.list()}

    rows = client.files.content(job.result_files[0]).text.splitlines()
    assert rows[0].split(",")[:3] == ["step", "train_loss", "valid_loss"]
    assert len(rows) == 13


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
