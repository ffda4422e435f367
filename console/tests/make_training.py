"""Datasets, runs and evaluations, for pages to show."""

import io
import json
import math
from datetime import datetime, timedelta

from accounts.models import Organization
from chips.models import Node
from models_registry.models import Revision
from training import services as training_services
from training.models import (
    Checkpoint,
    DatasetVersion,
    Evaluation,
    EvaluationAnswer,
    TrainingEvent,
    TrainingMetric,
    TrainingRun,
)


def chat_lines(count: int, *, start: int = 0) -> bytes:
    """OpenAI chat jsonl."""
    lines = []
    for number in range(start, start + count):
        answer = json.dumps({"intent": "track", "order": str(1000 + number)})
        messages = [
            {"role": "user", "content": f"Where is my order {1000 + number}? It is late."},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": messages}))
    return ("\n".join(lines) + "\n").encode()


def make_version(organization: Organization, *, now: datetime) -> DatasetVersion:
    dataset = training_services.create_dataset(
        organization=organization, name="support", description="Questions of shoppers.", now=now
    )
    return training_services.upload_version(
        organization=organization,
        dataset_id=dataset.pk,
        files={"train": io.BytesIO(chat_lines(40)), "heldout": io.BytesIO(chat_lines(8, start=90))},
        now=now,
    )


def make_run(
    organization: Organization,
    base: Revision,
    result: Revision,
    version: DatasetVersion,
    node: Node,
    *,
    now: datetime,
) -> TrainingRun:
    run = TrainingRun.objects.create(
        organization=organization,
        name="support-full-1",
        base_revision=base,
        dataset_version=version,
        eval_split="heldout",
        output_name=result.registered_model.name,
        tuning="full",
        hyperparameters={"epochs": 3.0, "learning_rate": 0.001, "batch_size": 16},
        status="running",
        status_changed_at=now,
        node=node,
        attempt=1,
        step=240,
        total_steps=400,
        train_loss=0.412,
        eval_loss=0.463,
        tokens_total=1_204_000,
        tokens_per_second=10_433.2,
        seconds_left=74.0,
        log_tail="\n".join(f"step {step} loss {3 / (1 + step / 20):.3f}" for step in range(60)),
        created_at=now - timedelta(minutes=4),
        started_at=now - timedelta(minutes=3),
    )
    TrainingMetric.objects.bulk_create(
        TrainingMetric(
            run=run,
            step=step,
            at=now,
            loss=3 * math.exp(-step / 80) + 0.4 + 0.05 * math.sin(step),
            eval_loss=3 * math.exp(-step / 85) + 0.45 if step % 40 == 0 else None,
            tokens_per_second=10_000 + 400 * math.sin(step / 9),
        )
        for step in range(10, 250, 10)
    )
    TrainingEvent.objects.create(run=run, at=now, kind="started", message="On alpha.")
    Checkpoint.objects.create(
        run=run, step=200, path="/nowhere/200", size_bytes=15_000_000, created_at=now
    )
    return run


def make_evaluation(
    organization: Organization,
    version: DatasetVersion,
    base: Revision,
    result: Revision,
    *,
    now: datetime,
) -> Evaluation:
    evaluation = Evaluation.objects.create(
        organization=organization,
        name="support against its base",
        split=version.splits.get(name="heldout"),
        model_names=["base", "support"],
        revision_ids={"base": str(base.pk), "support": str(result.pk)},
        status="succeeded",
        status_changed_at=now,
        examples_total=2,
        answers_done=4,
        results={
            "base": {"exact_match": 0.0, "valid_json": 0.1, "fields": {"intent": 0.05}},
            "support": {"exact_match": 0.5, "valid_json": 1.0, "fields": {"intent": 1.0}},
        },
        comparisons={
            "support": {
                "exact_match": {
                    "difference": 0.5,
                    "low": 0.0,
                    "high": 1.0,
                    "verdict": "unclear",
                    "wins": 1,
                    "losses": 0,
                    "ties": 1,
                    "pairs": 2,
                    "lower_is_better": False,
                }
            }
        },
        created_at=now,
        ended_at=now,
    )
    for line in (1, 2):
        for name, answer in (("base", "I am"), ("support", '{"intent": "track"}')):
            EvaluationAnswer.objects.create(
                evaluation=evaluation,
                model_name=name,
                line=line,
                prompt=f"Where is order {line}?",
                expected='{"intent": "track"}',
                answer=answer,
                is_exact=name == "support" and line == 1,
                scores={"exact_match": float(name == "support" and line == 1)},
            )
    return evaluation
