"""Every format from an upload over REST to what the trainer reads of it: checked, stored, and of
each line the answers that count, no more and no less. Splits are dealt out the same way each time."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from rest_framework.test import APIClient

from accounts.choices import Scope
from accounts.tests.make import make_key, make_organization
from models_registry import storage
from trainer.tests.learnt import learnt_from
from training.models import DatasetVersion

pytestmark = pytest.mark.django_db
V1 = "/api/v1"

CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": 12}'}}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
CHAT = {
    "messages": [
        {"role": "system", "content": "Help."},
        {"role": "user", "content": "Where is 12?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "on its way"},
        {"role": "assistant", "content": "Guess!", "weight": 0},
        {"role": "user", "content": "No."},
        {"role": "assistant", "content": "It is on its way.", "weight": 1},
    ],
    "tools": TOOLS,
}
HI = {"role": "user", "content": "Hi"}
PAIR = {
    "input": {"messages": [HI]},
    "preferred_output": [{"role": "assistant", "content": "Hello"}],
    "non_preferred_output": [{"role": "assistant", "content": "What"}],
}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Help."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "human", "value": "Bye"},
        {"from": "gpt", "value": "So long"},
    ]
}
ALPACA = {"instruction": "Add", "input": "1, 2", "output": "3", "history": [["Hi", "Hello"]]}
TABLE = [{"asked": "Hi;", "said": "Hello"}, {"asked": 'A "b"\nc', "said": "d, e"}]
COLUMNS = {"prompt": "asked", "completion": "said"}


def jsonl(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


# (file name, content, mapping, the format and the kind it is known for, what is learnt of it)
FORMATS: list[tuple[str, bytes, dict[str, str], str, str, list[list[str]]]] = [
    (
        "chat.jsonl",
        jsonl(CHAT),
        {},
        "openai_chat",
        "chat",
        [['[find {"order": 12}]', "It is on its way."]],
    ),
    ("pairs.jsonl", jsonl(PAIR), {}, "openai_preference", "preference", [["Hello"], ["What"]]),
    (
        "trl.jsonl",
        jsonl({"prompt": "Hi", "chosen": "Hello", "rejected": "What"}),
        {},
        "trl_preference",
        "preference",
        [["Hello"], ["What"]],
    ),
    (
        "labels.jsonl",
        jsonl({"prompt": "Hi", "completion": "Hello", "label": True}),
        {},
        "kto",
        "label",
        [["Hello"]],
    ),
    (
        "old.jsonl",
        jsonl({"prompt": "Hi", "completion": "Hello"}),
        {},
        "prompt_completion",
        "chat",
        [["Hello"]],
    ),
    ("alpaca.json", json.dumps([ALPACA]).encode(), {}, "alpaca", "chat", [["Hello", "3"]]),
    ("share.jsonl", jsonl(SHAREGPT), {}, "sharegpt", "chat", [["Hello", "So long"]]),
    ("table.csv", as_csv(TABLE), COLUMNS, "csv", "chat", [["Hello"], ["d, e"]]),
    ("table.parquet", as_parquet(TABLE), COLUMNS, "parquet", "chat", [["Hello"], ["d, e"]]),
    (
        "chat.parquet",
        as_parquet([CHAT]),
        {},
        "parquet",
        "chat",
        [['[find {"order": 12}]', "It is on its way."]],
    ),
]


@pytest.fixture
def client() -> APIClient:
    client = APIClient()
    secret = make_key(make_organization(), (Scope.READ, Scope.WRITE))
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


def upload(client: APIClient, name: str, content: bytes, **fields: Any) -> DatasetVersion:
    made = client.post(f"{V1}/datasets/", {"name": name.replace(".", "-")}, format="json").json()
    file = io.BytesIO(content)
    file.name = name
    body = {"train": file, **{key: json.dumps(value) for key, value in fields.items() if value}}
    answer = client.post(f"{V1}/datasets/{made['id']}/versions/", body, format="multipart")
    assert answer.status_code == 201, answer.json()
    return DatasetVersion.objects.get(pk=answer.json()["id"])


def stored(version: DatasetVersion, split: str = "train") -> bytes:
    with storage.open_blob(version.splits.get(name=split).blob_id) as file:
        return file.read()


@pytest.mark.parametrize(
    ("name", "content", "mapping", "source_format", "kind", "learnt"),
    FORMATS,
    ids=[case[0] for case in FORMATS],
)
def test_what_is_uploaded_is_checked_and_learnt(
    client: APIClient,
    tmp_path: Path,
    name: str,
    content: bytes,
    mapping: dict[str, str],
    source_format: str,
    kind: str,
    learnt: list[list[str]],
) -> None:
    version = upload(client, name, content, mapping=mapping)
    assert (version.status, version.format, version.kind) == ("ready", source_format, kind)
    assert version.report["errors"] == []
    path = tmp_path / "train.jsonl"
    path.write_bytes(stored(version))
    assert learnt_from(path, kind, tmp_path / "scratch") == learnt


def test_the_same_rows_are_dealt_out_alike_whoever_uploads_them_and_groups_stay_whole(
    client: APIClient,
) -> None:
    rows = [
        {"prompt": f"question {n}", "completion": f"answer {n}", "customer": n % 17}
        for n in range(170)
    ]
    plan = {"held_out": {"heldout": 0.2, "test": 10}, "group_by": "customer", "seed": 3}
    first = upload(client, "first.jsonl", jsonl(*rows), split_plan=plan)
    second = upload(client, "second.jsonl", jsonl(*rows), split_plan=plan)
    other = upload(client, "other.jsonl", jsonl(*rows), split_plan=plan | {"seed": 4})
    names = {"train", "heldout", "test"}
    assert {split.name for split in first.splits.all()} == names
    assert all(stored(first, name) == stored(second, name) for name in names)
    assert stored(first, "heldout") != stored(other, "heldout")
    customers = {
        name: {
            int(json.loads(line)["messages"][0]["content"].split()[1]) % 17
            for line in stored(first, name).splitlines()
        }
        for name in names
    }
    assert sum(map(len, customers.values())) == 17, "a customer is in one split alone"
