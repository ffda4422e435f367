"""Benchmark tasks in the console: from files to an evaluation's page."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.choices import Role
from accounts.tests.make import make_member, make_organization
from training.choices import EvaluationStatus
from training.models import Dataset, Evaluation

pytestmark = pytest.mark.django_db
YAML = b"""
task: cities
dataset_kwargs: {data_files: {test: test.jsonl, few: few.jsonl}}
test_split: test
fewshot_split: few
output_type: multiple_choice
doc_to_text: "{{ question }}"
doc_to_choice: [a, b]
doc_to_target: gold
"""
LINE = json.dumps({"question": "a or b?", "gold": 1}).encode() + b"\n"


def test_a_task_is_uploaded_chosen_and_its_figures_are_shown() -> None:
    organization = make_organization()
    client = Client()
    client.force_login(make_member(organization, "ann", Role.OWNER))

    def send(yaml: bytes):
        names = {"task.yaml": yaml, "test.jsonl": LINE * 3, "few.jsonl": LINE}
        files = [SimpleUploadedFile(name, data) for name, data in names.items()]
        return client.post(reverse("console:benchmark_upload"), {"name": "cities", "files": files})

    refused = send(YAML + b"include: other.yaml")
    assert refused.status_code == 422
    assert "task.include" in refused.content.decode() or "one file" in refused.content.decode()
    kept = send(YAML)
    assert kept.status_code in (302, 303), kept.content
    version = Dataset.objects.get(name="cities").versions.get()
    page = client.get(reverse("console:dataset_version", args=[version.pk])).content.decode()
    assert "multiple_choice" in page
    split = version.splits.get(name="test")
    form = client.get(reverse("console:evaluation_create"))
    offered = [value for value, _ in form.context["form"].fields["split"].choices]
    assert offered == [str(split.pk)]  # not the examples
    evaluation = Evaluation.objects.create(
        organization=organization,
        name="bench",
        split=split,
        model_names=["tiny", "tuned"],
        status=EvaluationStatus.SUCCEEDED,
        status_changed_at=timezone.now(),
        created_at=timezone.now(),
        results={
            name: {
                "examples": 3,
                "metrics": {"lm.cities.acc": 0.5, "lm.cities.brier_score": 0.71},
                "stderr": {"lm.cities.acc": 0.1},
                "errors": 0,
                "completion_tokens": 3,
            }
            for name in ("tiny", "tuned")
        },
        comparisons={
            "tuned": {
                "lm.cities.brier_score": {
                    "difference": -0.2, "low": -0.3, "high": -0.1, "verdict": "better",
                    "wins": 3, "losses": 0, "ties": 0, "pairs": 3, "lower_is_better": True,
                }
            }
        },
    )  # fmt: skip
    shown = client.get(reverse("console:evaluation", args=[evaluation.pk])).content.decode()
    assert "50.0 %" in shown
    assert "0.71" in shown
    assert "71.0 %" not in shown
    assert (
        client.get(reverse("console:evaluation_answers", args=[evaluation.pk])).status_code == 200
    )
    assert client.get(reverse("console:evaluations")).status_code == 200
    assert client.get(reverse("console:datasets")).status_code == 200
    assert client.get(reverse("console:dataset", args=[version.dataset_id])).status_code == 200
