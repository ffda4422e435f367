"""What a benchmark task may say, and what is refused by its key."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from accounts.tests.make import make_key, make_organization
from common.errors import InvalidInput, NotFound
from training import selectors, services
from training.benchmarks.task import metric_name, read_task
from training.choices import DatasetKind
from training.tests.make import chat_lines, make_version

GOOD = """
task: cities
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{ question }}"
doc_to_choice: [a, b]
doc_to_target: gold
"""
ROW = {"question": "a or b?", "gold": 1}


def data(*rows):
    return io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())


def upload(yaml=GOOD, name="cities", **files):
    given = {"task.yaml": io.BytesIO(yaml.encode()), "test.jsonl": data(ROW, ROW)} | files
    return services.upload_task(
        organization=make_organization(), name=name, files=given, now=timezone.now()
    )


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("process_docs: !function utils.process", "task"),
        ("doc_to_text: &a x\nmetadata: {b: *a}", "task"),
        ("task: twice", "task.task"),
        ("include: other.yaml", "task.include"),
        ("process_results: f", "task.process_results"),
        ("dataset_name: main", "task.dataset_name"),
        ("dataset_path: cais/mmlu", "task.dataset_path"),
        ("custom_dataset: x", "task.custom_dataset"),
        ("unsafe_code: true", "task.unsafe_code"),
        ("class: MyTask", "task.class"),
        ("anything: 1", "task.anything"),
        ("validation_split: dev", "task.validation_split"),
        ("num_fewshot: 2", "task.fewshot_split"),
        ("metric_list: [{metric: sacrebleu}]", "task.metric_list.0.metric"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]", "task.metric_list.0.hf_evaluate"),
        (
            "metric_list: [{metric: acc, higher_is_better: false}]",
            "task.metric_list.0.higher_is_better",
        ),
        (
            "filter_list: [{name: x, filter: [{function: custom}]}]",
            "task.filter_list.0.filter.0.function",
        ),
        (
            'filter_list: [{name: x, filter: [{function: regex, regex_pattern: "("}]}]',
            "task.filter_list.0.filter.0.regex_pattern",
        ),
        ("generation_kwargs: {until: [x]}", "task.generation_kwargs"),
    ],
)
def test_what_a_task_may_not_say_is_refused_by_its_key(line, field):
    with pytest.raises(InvalidInput) as caught:
        read_task((GOOD + line).encode())
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    "name", ["/etc/passwd.json", "../test.jsonl", "https://host/x.jsonl", "x.py"]
)
def test_documents_are_files_beside_the_task(name):
    with pytest.raises(InvalidInput) as caught:
        read_task(GOOD.replace("test.jsonl", f'"{name}"').encode())
    assert caught.value.field == "task.dataset_kwargs.data_files.test"


def test_names_of_figures_are_flat():
    assert metric_name("mmlu", "acc,none") == "lm.mmlu.acc"
    assert metric_name("gsm8k", "exact_match,strict-match") == "lm.gsm8k.exact_match.strict-match"


@pytest.mark.django_db
def test_a_task_is_kept_as_a_version_like_any_dataset():
    version = upload()
    assert (version.kind, version.number) == (DatasetKind.LM_TASK, 1)
    assert [(each.name, each.examples) for each in version.splits.all()] == [("test", 2)]
    assert version.report["task"]["output_type"] == "multiple_choice"
    assert upload() == version
    assert upload(GOOD + "description: more").number == 2
    make_version(name="lines")
    with pytest.raises(InvalidInput) as caught:
        upload(name="lines")
    assert caught.value.field == "name"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({"test.jsonl": data(ROW, {"question": 1})}, "files.test.jsonl"),
        ({"test.jsonl": io.BytesIO(b"[1]\n")}, "files.test.jsonl"),
        ({"test.jsonl": io.BytesIO(b"\n")}, "files.test.jsonl"),
        ({"other.jsonl": data(ROW)}, "files.other.jsonl"),
        ({"two.yaml": io.BytesIO(b"a: 1")}, "files"),
    ],
)
def test_files_that_do_not_fit_are_refused(files, field):
    with pytest.raises(InvalidInput) as caught:
        upload(**files)
    assert caught.value.field == field


@pytest.mark.django_db
def test_an_evaluation_of_a_task_takes_the_tasks_own_measures_and_split(monkeypatch):
    version = upload()
    common = {
        "organization": make_organization(),
        "name": "bench",
        "dataset_version_id": version.pk,
        "split": "test",
        "model_names": ["tiny"],
        "now": timezone.now(),
    }
    for more, field in (
        ({"metrics": [{"kind": "rouge"}]}, "metrics"),
        ({"num_fewshot": 3}, "num_fewshot"),
        ({"num_fewshot": 1000}, "num_fewshot"),
    ):
        with pytest.raises(InvalidInput) as caught:
            services.create_evaluation(**common | more)
        assert caught.value.field == field
    made = services.create_evaluation(**common, as_chat=True)
    assert (made.settings, made.examples_total) == ({"as_chat": True}, 2)
    assert selectors.list_evaluation_splits(make_organization()) == {}
    chat = make_version(files={"train": chat_lines(2), "heldout": chat_lines(2, start=9)})
    with pytest.raises(InvalidInput) as caught:
        services.create_evaluation(
            **common | {"dataset_version_id": chat.pk, "split": "heldout", "as_chat": True}
        )
    assert caught.value.field == "as_chat"


@pytest.mark.django_db
def test_the_operator_offers_tasks_and_rest_takes_them(settings, tmp_path: Path):
    settings.FACTORY_BENCHMARKS = str(tmp_path)
    (tmp_path / "cities").mkdir()
    (tmp_path / "cities" / "cities.yaml").write_text(GOOD)
    (tmp_path / "cities" / "test.jsonl").write_bytes(data(ROW).read())
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "odd.yaml").write_text(GOOD + "include: x")
    client = Client(headers={"Authorization": f"Bearer {make_key(make_organization())}"})
    told = {each["offered"]: each for each in client.get("/api/v1/benchmark-tasks/").json()}
    assert (told["cities"]["output_type"], told["cities"]["problem"]) == ("multiple_choice", "")
    assert told["odd"]["problem"]
    taken = client.post(
        "/api/v1/benchmark-tasks/", {"offered": "cities"}, content_type="application/json"
    )
    assert (taken.status_code, taken.json()["kind"]) == (201, "lm_task"), taken.content
    sent = client.post(
        "/api/v1/benchmark-tasks/",
        {
            "name": "mine",
            "files": [
                SimpleUploadedFile("task.yaml", GOOD.encode()),
                SimpleUploadedFile("test.jsonl", data(ROW).read()),
            ],
        },
    )
    assert sent.status_code == 201, sent.content
    refused = client.post(
        "/api/v1/benchmark-tasks/",
        {"name": "bad", "files": [SimpleUploadedFile("t.yaml", b"include: x")]},
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["field"] == "task.include"
    with pytest.raises(NotFound):
        services.adopt_task(organization=make_organization(), offered="../odd", now=timezone.now())


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ''.__class__.__mro__ }}", "template"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{{ unknown }}", "template"),
    ],
)
def test_templates_run_in_a_sandbox(tmp_path: Path, template, said):
    (tmp_path / "test.jsonl").write_bytes(data(ROW).read())
    spec = {
        "task": read_task(GOOD.encode()) | {"doc_to_text": template},
        "data": {"test": str(tmp_path / "test.jsonl")},
        "folder": str(tmp_path),
        "base_url": "http://127.0.0.1:1",
        "secret": "",
        "model": "tiny",
        "tokenizer": "",
        "as_chat": False,
        "num_fewshot": None,
        "limit": None,
        "max_length": 512,
        "route_seconds": 0,
        "model_seconds": 0,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "training.benchmarks.program"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(spec).encode() + b"\n")
        program.stdin.flush()
        word = json.loads(program.stdout.readline())
        program.kill()
    assert word["code"] == "task_failed"
    assert said in word["error"].lower()
