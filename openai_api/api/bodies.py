"""Rows as OpenAI's objects, every field there."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from openai_api import names, planning, selectors
from openai_api.choices import JOB_OVER
from openai_api.models import Batch, File, FineTuningJob
from openai_api.selectors import Snapshot
from openai_api.timeline import Told
from training.choices import RunStatus


def of_file(file: File) -> dict[str, Any]:
    return {
        "id": names.public_id(names.FILE, file.pk),
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": _seconds(file.created_at),
        "expires_at": _seconds(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def of_batch(batch: Batch) -> dict[str, Any]:
    status = batch.status
    ended = {f"{status}_at": _seconds(batch.ended_at)} if batch.ended_at else {}
    times = dict.fromkeys(("completed_at", "failed_at", "expired_at", "cancelled_at"), None)
    errors = {"object": "list", "data": batch.errors} if batch.errors else None
    into, out = batch.input_tokens, batch.output_tokens
    return {
        "id": names.batch_id(batch.pk),
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": names.public_id(names.FILE, batch.input_file_id),
        "completion_window": _window(batch.window_seconds),
        "status": status,
        "output_file_id": _file_id(batch.output_file_id),
        "error_file_id": _file_id(batch.error_file_id),
        "created_at": _seconds(batch.created_at),
        "in_progress_at": _seconds(batch.in_progress_at),
        "expires_at": _seconds(batch.expires_at),
        "finalizing_at": _seconds(batch.finalizing_at),
        "cancelling_at": _seconds(batch.cancel_requested_at),
        **times,
        **ended,
        "request_counts": {
            "total": batch.lines_total,
            "completed": batch.lines_completed,
            "failed": batch.lines_failed,
        },
        "usage": {
            "input_tokens": into,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": out,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": into + out,
        },
        "metadata": batch.metadata,
    }


def _file_id(pk: UUID | None) -> str | None:
    return names.public_id(names.FILE, pk) if pk is not None else None


def _window(seconds: int) -> str:
    """As most say it: 24h, not 1d."""
    hours = seconds // 3600
    return f"{hours}h" if hours <= 24 or hours % 24 else f"{hours // 24}d"


def of_job(job: FineTuningJob, *, now: datetime) -> dict[str, Any]:
    status, run = selectors.status_of(job), job.run
    is_over = job.status in JOB_OVER
    hyperparameters = planning.shown_hyperparameters(job)
    return {
        "id": names.public_id(names.JOB, job.pk),
        "object": "fine_tuning.job",
        "created_at": _seconds(job.created_at),
        "finished_at": _seconds(job.ended_at),
        "estimated_finish": _estimate(job, status, now),
        "model": job.model_name,
        "fine_tuned_model": job.fine_tuned_model if status == "succeeded" else None,
        "organization_id": names.public_id(names.ORGANIZATION, job.organization_id),
        "status": status,
        "error": _error(job, status),
        "training_file": names.public_id(names.FILE, job.training_file_id),
        "validation_file": names.public_id(names.FILE, job.validation_file_id)
        if job.validation_file_id
        else None,
        "result_files": [names.public_id(names.FILE, job.result_file_id)]
        if job.result_file_id
        else [],
        "trained_tokens": run.tokens_total if is_over and run is not None else None,
        "hyperparameters": hyperparameters,
        "method": {"type": job.method, job.method: {"hyperparameters": hyperparameters}},
        "seed": job.seed,
        "user_provided_suffix": job.suffix or None,
        "metadata": job.metadata,
        "integrations": [],
    }


def of_event(told: Told) -> dict[str, Any]:
    return {
        "id": f"{names.EVENT}-{told.key}",
        "object": "fine_tuning.job.event",
        "created_at": _seconds(told.at),
        "level": told.level,
        "message": told.message,
        "type": told.kind,
        "data": dict(told.data or {}),
    }


def of_snapshot(snapshot: Snapshot, job: FineTuningJob) -> dict[str, Any]:
    return {
        "id": names.public_id(names.CHECKPOINT, snapshot.revision.pk),
        "object": "fine_tuning.job.checkpoint",
        "created_at": _seconds(snapshot.revision.created_at),
        "fine_tuned_model_checkpoint": snapshot.name,
        "fine_tuning_job_id": names.public_id(names.JOB, job.pk),
        "metrics": _metrics(snapshot),
        "step_number": snapshot.step,
    }


def _metrics(snapshot: Snapshot) -> Mapping[str, float]:
    """What was measured; a metric that was not is left out."""
    measured = {
        "step": float(snapshot.step),
        "train_loss": snapshot.train_loss,
        "valid_loss": snapshot.valid_loss,
        "full_valid_loss": snapshot.valid_loss,  # all of the validation file is read, each time
        "train_mean_token_accuracy": snapshot.train_accuracy,
        "valid_mean_token_accuracy": snapshot.valid_accuracy,
        "full_valid_mean_token_accuracy": snapshot.valid_accuracy,
    }
    return {name: value for name, value in measured.items() if value is not None}


def _error(job: FineTuningJob, status: str) -> dict[str, Any] | None:
    if status != "failed":
        return None
    if job.error:
        return dict(job.error)
    run = job.run  # over a moment ago
    return {
        "code": (run.status_reason if run else "") or "training_failed",
        "message": run.message if run else job.message,
        "param": None,
    }


def _estimate(job: FineTuningJob, status: str, now: datetime) -> int | None:
    run = job.run
    if status != "running" or run is None or run.status != RunStatus.RUNNING:
        return None
    if run.seconds_left is None:
        return None
    return _seconds(now + timedelta(seconds=run.seconds_left))


def _seconds(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at is not None else None
