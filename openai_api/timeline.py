"""The events of a job: its own, its run's, and what was measured, in one order, newest first."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from openai_api.models import FineTuningJob, JobEvent
from training.models import TrainingEvent, TrainingMetric

NUMBER_KEY = re.compile(r"([jm])([0-9a-f]{1,15})")  # of a job's event, of a metric
ROW_KEY = re.compile(r"[0-9a-f]{32}")
LEVELS = {"info", "warn", "error"}
SAID = {  # what a run's events without words of their own say
    "started": "Fine-tuning job started",
    "yielded": "The trainer has saved a checkpoint and yielded",
    "finished": "Training has finished",
    "checkpoint": "A checkpoint was saved",
}


@dataclass(frozen=True)
class Told:
    """One event. `key` finds it again; `kind` is message or metrics."""

    key: str
    at: datetime
    message: str
    level: str = "info"
    kind: str = "message"
    data: Mapping[str, Any] | None = None


class NoSuchEvent(Exception):
    """The key is of no event of this job."""


@dataclass(frozen=True)
class _Place:
    """Where a page begins: after this row of this kind."""

    at: datetime
    rank: int
    pk: Any


def list_told(job: FineTuningJob, *, after: str = "", limit: int) -> tuple[list[Told], bool]:
    """One page, newest first, and whether there are older ones. Raises NoSuchEvent."""
    kinds: list[tuple[QuerySet[Any], Any]] = [
        (JobEvent.objects.filter(job=job), _of_event),
        (TrainingEvent.objects.filter(run=job.run_id), _of_run_event),
        (TrainingMetric.objects.filter(run=job.run_id), _of_metric(job)),
    ]
    place = _find(after, [rows for rows, _ in kinds]) if after else None
    found: list[tuple[tuple[datetime, int, Any], Told]] = []
    for rank, (rows, shape) in enumerate(kinds):
        if place is not None:
            rows = rows.filter(_older(place, rank))
        newest = rows.order_by("-at", "-pk")[: limit + 1]
        found += [((row.at, -rank, row.pk), shape(row)) for row in newest]
    found.sort(key=lambda pair: pair[0], reverse=True)
    return [told for _, told in found[:limit]], len(found) > limit


def _older(place: _Place, rank: int) -> Q:
    """Of rows of the kind with this rank: those that come after the place. Of one time, kinds come
    in the order of their ranks, and rows of a kind by falling ids."""
    older = Q(at__lt=place.at)
    if rank > place.rank:
        return older | Q(at=place.at)
    if rank == place.rank:
        return older | Q(at=place.at, pk__lt=place.pk)
    return older


def _find(key: str, kinds: list[QuerySet[Any]]) -> _Place:
    pk: int | UUID
    if number := NUMBER_KEY.fullmatch(key):
        rank, pk = {"j": 0, "m": 2}[number[1]], int(number[2], 16)
    elif ROW_KEY.fullmatch(key):
        rank, pk = 1, UUID(key)
    else:
        raise NoSuchEvent(key)
    row = kinds[rank].filter(pk=pk).first()
    if row is None:
        raise NoSuchEvent(key)
    return _Place(at=row.at, rank=rank, pk=row.pk)


def _of_event(row: JobEvent) -> Told:
    return Told(f"j{row.pk:x}", row.at, row.message, level=row.level, data=row.data)


def _of_run_event(row: TrainingEvent) -> Told:
    message = row.message or SAID.get(row.kind, row.kind.replace("_", " "))
    level = row.level if row.level in LEVELS else "info"
    return Told(row.pk.hex, row.at, message, level=level, data={"kind": row.kind})


def _of_metric(job: FineTuningJob) -> Any:
    total = job.run.total_steps if job.run is not None else None

    def shape(row: TrainingMetric) -> Told:
        losses = {"training loss": row.loss, "validation loss": row.eval_loss}
        told = ", ".join(f"{name}={loss:.4f}" for name, loss in losses.items() if loss is not None)
        data = {
            "step": row.step,
            "total_steps": total,
            "train_loss": row.loss,
            "valid_loss": row.eval_loss,
            "train_mean_token_accuracy": row.details.get("token_accuracy"),
            "valid_mean_token_accuracy": row.eval_details.get("token_accuracy"),
            "learning_rate": row.learning_rate,
            "tokens_per_second": row.tokens_per_second,
        }
        return Told(
            f"m{row.pk:x}",
            row.at,
            f"Step {row.step}/{total or '?'}: {told}",
            kind="metrics",
            data={name: value for name, value in data.items() if value is not None},
        )

    return shape
