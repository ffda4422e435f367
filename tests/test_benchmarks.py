"""Benchmark tasks from upload to a gate: lm-eval in its process, the gateway, a real engine."""

import io
import json
import math
import subprocess
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.tests.make import make_organization
from engines.tests.make import ROOT, RunningEngine, make_model, make_spec
from gateway.tests.make import RunningGateway, make_replica, make_target
from models_registry import services as registry
from models_registry import storage
from models_registry.choices import RevisionKind, SourceKind
from models_registry.models import EvaluationResult
from trainer.tests import make as trainer_make
from training import evaluate, scratch, services
from training.benchmarks import running
from training.choices import EvaluationStatus
from training.models import Evaluation, EvaluationAnswer
from training.tests.make import chat_lines, make_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]
E = EvaluationStatus

CHOICE = b"""
task: cities
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl, train: few.jsonl}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "Question: {{ question }}\\nAnswer:"
doc_to_choice: "{{ choices }}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm}
"""
WRITE = b"""
task: words
dataset_kwargs: {data_files: {test: words.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "where is {{ word }}"
doc_to_target: "{{ word }}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
filter_list:
  - {name: none, filter: [{function: take_first}]}
  - {name: low, filter: [{function: lowercase}, {function: take_first}]}
"""


def lines(rows):
    return io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())


def upload(name, yaml, **files):
    return services.upload_task(
        organization=make_organization(),
        name=name,
        files={"task.yaml": io.BytesIO(yaml)} | {f"{key}.jsonl": of for key, of in files.items()},
        now=timezone.now(),
    )


def cities(count, start=0):
    return [
        {"question": f"order {at}?", "choices": ["Berlin", "Paris", "today"], "gold": at % 3}
        for at in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("benchmark-model"))
    engine = RunningEngine(
        make_spec(engine="transformers", model_path=str(folder)), tmp_path_factory.mktemp("engine")
    )
    yield folder, engine.wait_ready()
    engine.stop()


@pytest.fixture
def served(model, settings, tmp_path):
    folder, engine = model
    organization = make_organization()
    revision = registry.publish_folder(
        organization=organization,
        name="tiny",
        folder=folder,
        kind=RevisionKind.BASE,
        source_kind=SourceKind.FOLDER,
        now=timezone.now(),
    )
    settings.FACTORY_DATA = tmp_path
    gateway = RunningGateway()
    gateway.route(organization, make_target(make_replica(engine), revision_id=str(revision.pk)))
    settings.FACTORY_GATEWAY_URL = gateway.start().url
    yield revision
    gateway.stop()


def want(version, **options):
    return services.create_evaluation(
        organization=make_organization(),
        name="bench",
        dataset_version_id=version.pk,
        split="test",
        model_names=["tiny"],
        now=timezone.now(),
        **options,
    )


def finish(evaluation):
    for _ in range(6):
        if not evaluate.step_evaluation(evaluation.pk, now=timezone.now()):
            break
    return Evaluation.objects.get(pk=evaluation.pk)


def test_choices_and_writing_end_as_results_that_gates_read(served):
    choice = upload("cities", CHOICE, test=lines(cities(6)), few=lines(cities(3, 100)))
    found = finish(want(choice, num_fewshot=2))
    assert found.status == E.SUCCEEDED, found.message
    told = found.results["tiny"]
    assert set(told["metrics"]) == {"lm.cities.acc", "lm.cities.acc_norm"}
    rows = EvaluationAnswer.objects.filter(evaluation=found)
    right = [row.scores["lm.cities.acc"] for row in rows]
    assert len(right) == 6
    assert told["metrics"]["lm.cities.acc"] == pytest.approx(sum(right) / 6)
    assert told["stderr"]["lm.cities.acc"] > 0 or len(set(right)) == 1
    first = rows.get(line=1)
    assert (first.expected, first.revision_id) == ("Berlin", served.pk)
    assert first.answer in ("Berlin", "Paris", "today")
    assert first.prompt.count("Question:") == 3  # two examples before it
    kept = EvaluationResult.objects.get(revision=served)
    assert (kept.dataset_version_id, kept.split, kept.examples) == (choice.pk, "test", 6)
    assert kept.metrics == told["metrics"]
    assert not scratch.folder(found).exists()

    words = upload("words", WRITE, words=lines([{"word": "parcel"}, {"word": "box"}]))
    wrote = finish(want(words, as_chat=True))
    assert wrote.status == E.SUCCEEDED, wrote.message
    assert set(wrote.results["tiny"]["metrics"]) == {
        "lm.words.exact_match",
        "lm.words.exact_match.low",
    }
    assert wrote.results["tiny"]["completion_tokens"] > 0


def test_what_was_answered_before_a_worker_was_lost_is_not_asked_again(served, monkeypatch):
    """The second worker finds every answer of the first, which died as the last one came."""
    task = upload("cities", CHOICE, test=lines(cities(4)), few=lines(cities(3, 100)))
    evaluation = want(task)
    evaluate.step_evaluation(evaluation.pk, now=timezone.now())

    class Died(BaseException):
        pass

    def die(*args, **more):
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(running, "keep_samples", die)
        with pytest.raises(Died):
            evaluate.step_evaluation(evaluation.pk, now=timezone.now())
    Evaluation.objects.filter(pk=evaluation.pk).update(leased_until=timezone.now())
    asked = []
    heed = running._heed

    def watched(row, words, folder, **more):
        inner = words.get

        def get(**options):
            asked.append(inner(**options))
            return asked[-1]

        monkeypatch.setattr(words, "get", get)
        return heed(row, words, folder, **more)

    monkeypatch.setattr(running, "_heed", watched)
    late = timezone.now() + timedelta(seconds=1)
    assert evaluate.step_evaluation(evaluation.pk, now=late)
    assert finish(evaluation).status == E.SUCCEEDED
    assert all("done" not in word for word in asked)


def test_the_program_ends_with_whoever_started_it(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-m", "training.benchmarks.program"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert program.stdin is not None
    program.stdin.write(b'{"base_url": "http://127.0.0.1:1"}\n')
    program.stdin.close()
    assert program.wait(timeout=30) == 3


def test_perplexity_is_the_loss_that_training_tells(served, model, tmp_path):
    """The same tokens and the same mean over all of them; e to it; bits of the answers' text."""
    several = [
        {"role": "user", "content": "where is my order"},
        {"role": "assistant", "content": "in Berlin", "weight": 0},
        {"role": "user", "content": "and the other one"},
        {"role": "assistant", "content": "yesterday it came to the city"},
    ]
    heldout = chat_lines(5, start=50) + json.dumps({"messages": several}).encode() + b"\n"
    version = make_version(files={"train": chat_lines(2), "heldout": heldout})
    evaluation = services.create_evaluation(
        organization=make_organization(),
        name="loss",
        dataset_version_id=version.pk,
        split="heldout",
        model_names=["tiny"],
        metrics=[{"kind": "perplexity"}],
        max_tokens=1,
        now=timezone.now(),
    )
    found = finish(evaluation)
    assert found.status == E.SUCCEEDED, found.message
    assert found.problems == {}
    metrics = found.results["tiny"]["metrics"]
    assert metrics["loss"] == pytest.approx(trainers_loss(model[0], version, tmp_path), abs=2e-3)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    rows = list(found.answers.order_by("line"))
    nats = sum(row.likelihood["nats"] for row in rows)
    text = "yesterday it came to the city"
    assert rows[-1].likelihood["bytes"] == len(text)
    size = sum(row.likelihood["bytes"] for row in rows)
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / size)
    kept = EvaluationResult.objects.get(revision=served)
    assert kept.metrics["loss"] == metrics["loss"]
    assert not scratch.folder(found).exists()


def trainers_loss(folder, version, root):
    """What a run that learns next to nothing tells of the held-out lines at its end."""
    with storage.open_blob(version.splits.get(name="heldout").blob_id) as file:
        rows = [json.loads(line) for line in file]
    held_out = trainer_make.write_rows(root / "heldout.jsonl", rows)
    spec = trainer_make.make_spec(
        root / "run",
        base=folder,
        rows=4,
        eval_path=str(held_out),
        max_steps=1,
        learning_rate=1e-9,
        max_length_tokens=512,
    )
    assert trainer_make.run_here(spec) == 0
    return trainer_make.events(spec, "eval")[-1]["eval_loss"]
