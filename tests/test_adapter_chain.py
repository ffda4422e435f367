"""A LoRA result from its training to an answer: attached to the running base, metered by itself."""

import time
from pathlib import Path
from typing import Any

import openai
import pytest

from demo.data import write_dataset
from demo.job import MODEL_FOLDER
from demo.rest import Rest
from tests.platform_under_test import running_platform

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]

ATTACHED_SECONDS = 10.0  # 2 s are promised on a quiet node; test machines are loaded
HELLO: Any = [{"role": "user", "content": "Where is my parcel?"}]


def test_a_lora_result_is_attached_to_the_running_base_and_metered_by_itself(
    tmp_path: Path,
) -> None:
    with running_platform("--pool", "local") as platform:
        keys = platform.keys()
        rest = Rest(base_url=platform.base_url, key=keys["retail"])
        imported = rest.post(
            "imports/", {"name": "tiny", "source_kind": "folder", "source": str(MODEL_FOLDER)}
        )
        rest.wait(f"imports/{imported['id']}/", until={"succeeded"}, never={"failed"}, seconds=60)
        model = rest.named("models/", "tiny")
        assert model is not None
        base = rest.rows(f"models/{model['id']}/revisions/")[0]
        serving = rest.post("deployments/", {"name": "tiny", "revision": base["id"]})
        run = rest.post(
            "training-runs/",
            {
                "name": "lora",
                "base_revision": base["id"],
                "dataset_version": upload(rest, base["id"], tmp_path)["id"],
                "output_name": "tiny-lora",
                "tuning": "lora",
                "accelerators": 1,
                "hyperparameters": {"epochs": 1, "max_seconds": 20, "learning_rate": 2e-3},
            },
        )
        never = {"failed", "cancelled"}
        run = rest.wait(
            f"training-runs/{run['id']}/", until={"succeeded"}, never=never, seconds=150
        )
        rest.wait(f"deployments/{serving['id']}/", until={"ready"}, never=never, seconds=90)
        (engine,) = platform.node_processes("engines.transformers_server")

        began = time.monotonic()
        adapter = rest.post("deployments/", {"name": "lora", "revision": run["result_revision"]})
        rest.wait(
            f"deployments/{adapter['id']}/",
            until={"ready"},
            never=never,
            seconds=30,
        )
        took = time.monotonic() - began
        assert took < ATTACHED_SECONDS
        assert [each.pid for each in platform.node_processes("engines.transformers_server")] == [
            engine.pid
        ], "the engine was started again"

        client = openai.OpenAI(base_url=f"{platform.base_url}/v1", api_key=keys["retail"])
        said = {
            name: client.chat.completions.create(
                model=name, messages=HELLO, max_tokens=24, temperature=0
            )
            for name in ("tiny", "lora")
        }
        texts = {name: answer.choices[0].message.content for name, answer in said.items()}
        assert texts["tiny"] != texts["lora"]
        assert said["lora"].model == "lora"
        tokens = metered(
            rest, {name: answer.usage.completion_tokens for name, answer in said.items()}
        )
        assert tokens == {name: answer.usage.completion_tokens for name, answer in said.items()}


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
