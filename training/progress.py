"""What a trainer told, as rows. Each line is read once: the offset moves in the same transaction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.db.models import QuerySet

from trainer.progress import ENDINGS, Kind, read_progress
from training.choices import EventLevel
from training.models import (
    Checkpoint,
    TrainingEvent,
    TrainingMetric,
    TrainingRun,
    TrainingSample,
)

READS = 32  # of 8 MiB each: a run's whole file many times over
MEASURED = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes")
TOLD = frozenset(
    {Kind.STARTED, Kind.WARNING, Kind.EARLY_STOP, *ENDINGS}
)  # lines that are events on the page
LEVELS = {Kind.WARNING: EventLevel.WARN, Kind.FAILED: EventLevel.ERROR}


@dataclass
class News:
    """Lines not yet taken up, and the offset after them."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    offset: int = 0


@dataclass(frozen=True)
class Ending:
    """The last word of one attempt."""

    kind: str
    reason: str = ""
    message: str = ""
    remedy: str = ""


def read(path: Path, *, offset: int) -> News:
    """All lines from `offset` on. Disk work: call it outside of a transaction."""
    news = News(offset=offset)
    for _ in range(READS):
        lines, after = read_progress(path, news.offset)
        if after == news.offset:
            break
        news.lines += lines
        news.offset = after
    return news


def take_up(run: TrainingRun, news: News, *, now: datetime) -> None:
    """Write the lines as metrics, events and checkpoints, and set the run's own fields.

    Leaves saving the run's row to the caller, in whose transaction this is. A step told again
    after a resume replaces its metric; `tokens_total` never falls, so nothing is billed twice.
    """
    lines = [line for line in news.lines if isinstance(line.get("attempt"), int)]
    _write_metrics(run, lines, now=now)
    _write_checkpoints(run, lines, now=now)
    _write_samples(run, lines, now=now)
    TrainingEvent.objects.bulk_create(
        _event(run, line, now=now) for line in lines if line["kind"] in TOLD
    )
    for line in lines:
        _follow(run, line, now=now)
    run.progress_offset = news.offset


def ending_of(run: TrainingRun) -> Ending | None:
    """How the present attempt ended by its own account, or None."""
    event = _of_attempt(run).filter(kind__in=ENDINGS).last()
    if event is None:
        return None
    told = {key: str(event.data.get(key) or "") for key in ("reason", "remedy")}
    return Ending(event.kind, message=event.message, **told)


def has_begun(run: TrainingRun) -> bool:
    """True once the present attempt has loaded its model and data."""
    return _of_attempt(run).filter(kind=Kind.STARTED).exists()


def _of_attempt(run: TrainingRun) -> QuerySet[TrainingEvent]:
    return TrainingEvent.objects.filter(run=run, data__attempt=run.attempt)


def _event(run: TrainingRun, line: dict[str, Any], *, now: datetime) -> TrainingEvent:
    """A warning is known by its reason, any other line by its kind."""
    kind = line["kind"]
    if kind == Kind.WARNING:
        kind = str(line.get("reason") or kind)[:40]
    return TrainingEvent(
        run=run,
        at=_at(line, now),
        kind=kind,
        level=LEVELS.get(line["kind"], EventLevel.INFO),
        message=str(line.get("message", "")),
        data={key: value for key, value in line.items() if key not in ("kind", "at")},
    )


def _follow(run: TrainingRun, line: dict[str, Any], *, now: datetime) -> None:
    """The run's own fields after a line."""
    if line["attempt"] == run.attempt:
        run.told_at = min(now, _at(line, now))
        run.patience_seconds = _number(line.get("patience_seconds")) or run.patience_seconds
    splits = _whole(line.get("micro_batch_splits"))
    if splits is not None:
        run.micro_batch_splits = max(run.micro_batch_splits, min(splits, 2**15 - 1))
    peak = _whole(line.get("peak_memory_bytes"))
    if peak is not None:
        run.peak_memory_bytes = max(run.peak_memory_bytes or 0, peak)
    tokens = _whole(line.get("tokens_total"))
    if tokens is not None:
        run.tokens_total = max(run.tokens_total, tokens)
    match line["kind"]:
        case Kind.STARTED:
            run.step = _whole(line.get("resumed_from_step")) or 0
            run.total_steps = _whole(line.get("total_steps"))
        case Kind.STEP:
            run.step = _whole(line.get("step")) or run.step
            run.total_steps = _whole(line.get("total_steps")) or run.total_steps
            run.train_loss = _number(line.get("loss"))
            run.tokens_per_second = _number(line.get("tokens_per_second"))
            run.seconds_left = _number(line.get("seconds_left"))
        case Kind.EVAL:
            run.eval_loss = _number(line.get("eval_loss"))
            run.best_step = _whole(line.get("best_step"))
            run.best_value = _number(line.get("best_value"))
        case Kind.CHECKPOINT:
            if line["attempt"] == run.attempt:
                run.failures = 0  # it got further than before: what went wrong is behind it
        case Kind.FINISHED:
            run.step = _whole(line.get("step")) or run.step
            run.train_loss = _number(line.get("train_loss"))
            run.eval_loss = _number(line.get("eval_loss"))
            run.result_step = _whole(line.get("result_step"))
            run.best_step = _whole(line.get("best_step"))
            run.best_value = _number(line.get("best_value"))
            run.stopped_early = line.get("stopped_early") is True
            run.seconds_left = 0.0


def _write_metrics(run: TrainingRun, lines: Sequence[dict[str, Any]], *, now: datetime) -> None:
    measured: dict[int, TrainingMetric] = {}
    evaluated: dict[int, TrainingMetric] = {}
    for line in lines:
        step = _whole(line.get("step"))
        if step is None:
            continue
        if line["kind"] == Kind.STEP:
            values = {name: _number(line.get(name)) for name in MEASURED[:-1]}
            measured[step] = TrainingMetric(
                run=run,
                step=step,
                at=_at(line, now),
                memory_bytes=_whole(line.get("memory_bytes")),
                tokens_total=_whole(line.get("tokens_total")),
                details=_details(line),
                **values,
            )
        elif line["kind"] == Kind.EVAL:
            evaluated[step] = TrainingMetric(
                run=run,
                step=step,
                at=_at(line, now),
                eval_loss=_number(line.get("eval_loss")),
                eval_details=_details(line),
            )
    for rows, fields in (
        (measured, ["at", *MEASURED, "tokens_total", "details"]),
        (evaluated, ["eval_loss", "eval_details"]),
    ):
        TrainingMetric.objects.bulk_create(
            rows.values(),
            update_conflicts=True,
            unique_fields=["run", "step"],
            update_fields=fields,
            batch_size=1000,
        )


def _write_checkpoints(run: TrainingRun, lines: Sequence[dict[str, Any]], *, now: datetime) -> None:
    kept: list[int] | None = None
    for line in lines:
        step = _whole(line.get("step"))
        if line["kind"] != Kind.CHECKPOINT or step is None:
            continue
        Checkpoint.objects.update_or_create(
            run=run,
            step=step,
            defaults={
                "path": str(line.get("path", ""))[:400],
                "size_bytes": _whole(line.get("bytes")) or 0,
                "created_at": _at(line, now),
                "pruned_at": None,
            },
        )
        kept = _kept(line, run)
    if kept is not None:  # the trainer removes older ones as it saves newer ones
        present = Checkpoint.objects.filter(run=run, pruned_at=None)
        present.exclude(step__in=kept).update(pruned_at=now)


def _kept(line: dict[str, Any], run: TrainingRun) -> list[int]:
    """Steps of the checkpoints that were there when one more was saved."""
    told = line.get("kept")
    if isinstance(told, list):
        return [step for each in told if (step := _whole(each)) is not None]
    rows = Checkpoint.objects.filter(run=run, pruned_at=None).order_by("-step")
    count = run.hyperparameters.get("checkpoints_kept", 2)
    return list(rows.values_list("step", flat=True)[:count])


def _write_samples(run: TrainingRun, lines: Sequence[dict[str, Any]], *, now: datetime) -> None:
    told: dict[int, TrainingSample] = {}
    for line in lines:
        step, answers = _whole(line.get("step")), line.get("samples")
        if line["kind"] == Kind.SAMPLE and step is not None and isinstance(answers, list):
            kept = [
                {key: str(answer.get(key, "")).replace("\0", "") for key in ("prompt", "answer")}
                for answer in answers
                if isinstance(answer, dict)
            ]
            told[step] = TrainingSample(run=run, step=step, at=_at(line, now), answers=kept)
    TrainingSample.objects.bulk_create(
        told.values(),
        update_conflicts=True,
        unique_fields=["run", "step"],
        update_fields=["at", "answers"],
    )


def _details(line: dict[str, Any]) -> dict[str, float]:
    """Finite numbers by name."""
    told = line.get("metrics")
    if not isinstance(told, dict):
        return {}
    found = {str(name)[:40]: _number(value) for name, value in told.items()}
    return {name: value for name, value in found.items() if value is not None}


def _at(line: dict[str, Any], now: datetime) -> datetime:
    try:
        at = datetime.fromisoformat(str(line.get("at")))
    except ValueError:
        return now
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number >= 0 else None
