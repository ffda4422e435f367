"""Samples as rows, runs side by side, and the event file that TensorBoard reads."""

import struct
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from accounts.tests.make import NOW, make_key
from training import progress
from training.models import TrainingMetric, TrainingRun, TrainingSample
from training.progress import News
from training.tests.make import make_run

pytestmark = pytest.mark.django_db


def tell(run: TrainingRun, *lines: dict[str, Any]) -> None:
    told = [{"attempt": 1, "at": NOW.isoformat()} | line for line in lines]
    progress.take_up(run, News(lines=told, offset=1), now=NOW)
    run.save()


def measure(run: TrainingRun, count: int = 3) -> None:
    for step in range(1, count + 1):
        TrainingMetric.objects.create(
            run=run,
            step=step,
            at=NOW + timedelta(hours=step),
            loss=1 / step,
            eval_loss=0.5 if step == count else None,
            tokens_total=100 * step,
            details={"reward_margin": 0.25},
        )


def test_samples_told_again_after_a_resume_replace_their_row(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for answer in ("one\0", "two"):
        line = {"kind": "sample", "step": 5, "samples": [{"prompt": "p", "answer": answer}]}
        tell(
            run,
            line,
            {
                "kind": "step",
                "step": 5,
                "loss": 1.0,
                "tokens_total": 7,
                "metrics": {"reward_margin": 0.5, "kl": None},
            },
        )
    assert TrainingSample.objects.get(run=run).answers == [{"prompt": "p", "answer": "two"}]
    metric = TrainingMetric.objects.get(run=run)
    assert (metric.tokens_total, metric.details) == (7, {"reward_margin": 0.5})


def test_the_event_file_is_what_tensorboard_reads(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    measure(run)
    TrainingSample.objects.create(
        run=run, step=2, at=NOW, answers=[{"prompt": "Where?", "answer": "Here."}]
    )
    client = Client(headers={"Authorization": f"Bearer {make_key(run.organization)}"})
    answer = client.get(f"/api/v1/training-runs/{run.pk}/tensorboard/")
    assert "tfevents" in answer["Content-Disposition"]
    events = read_events(answer.getvalue())
    assert events[0].file_version == "brain.Event:2"
    values = {
        (event.step, value.tag): value.simple_value
        for event in events[1:]
        for value in event.summary.value
    }
    assert values[2, "train/loss"] == 0.5
    assert values[3, "eval/loss"] == 0.5
    assert values[1, "train/reward_margin"] == 0.25
    assert (2, "eval/loss") not in values
    assert any(tag.startswith("samples/1") for _step, tag in values)


def read_events(data: bytes) -> list[Event]:
    events, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        assert struct.unpack_from("<I", data, at + 8)[0] == masked_crc32c(data[at : at + 8])
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked_crc32c(body)
        events.append(Event.FromString(body))
        at += 16 + length
    return events


def test_runs_are_compared_by_what_differs_and_by_their_curves(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    second = make_run(
        tmp_path, first.organization, name="second", hyperparameters={"learning_rate": 1e-5}
    )
    measure(first)
    measure(second, 2)
    client = Client(headers={"Authorization": f"Bearer {make_key(first.organization)}"})
    url = "/api/v1/training-runs/compare/"
    both = {"run": [str(second.pk), str(first.pk)]}
    body = client.get(url, both).json()
    assert [row["name"] for row in body["runs"]] == ["second", "tune"]
    rows = {row["name"]: row for row in body["rows"]}
    assert rows["learning_rate"]["differs"]
    assert rows["learning_rate"]["values"][0] == 1e-5
    assert not rows["epochs"]["differs"]
    assert body["curves"][1]["loss"][1] == [2.0, 0.5]
    assert body["curves"][1]["eval_loss"] == [[3.0, 0.5]]
    by_tokens = client.get(url, both | {"by": "tokens"}).json()["curves"][1]["loss"]
    assert [x for x, _y in by_tokens] == [100, 200, 300]
    by_time = client.get(url, both | {"by": "time"}).json()["curves"][1]["loss"]
    assert [x for x, _y in by_time] == [0, 1, 2]
    assert client.get(url, {"run": [str(first.pk)]}).status_code == 400
    assert client.get(url, both | {"by": "colour"}).status_code == 400
    stranger = make_run(tmp_path / "other", name="other")
    if stranger.organization != first.organization:
        assert client.get(url, {"run": [str(first.pk), str(stranger.pk)]}).status_code == 404
