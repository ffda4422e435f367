"""Files, jobs and what can be said of them; each question starts from the organization."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Q, QuerySet

from accounts.models import Organization
from common.errors import NotFound
from models_registry.models import Revision
from openai_api import names
from openai_api.choices import BATCH_OVER, JOB_OVER, JobStatus
from openai_api.models import Batch, File, FineTuningJob
from training.choices import RunStatus
from training.models import TrainingMetric, TrainingRun

R = RunStatus


def list_files(organization: Organization, *, now: datetime, purpose: str = "") -> QuerySet[File]:
    """Those that are neither deleted nor expired, newest first."""
    is_there = Q(expires_at__isnull=True) | Q(expires_at__gt=now)
    rows = File.objects.of(organization).filter(is_there, deleted_at__isnull=True)
    return rows.filter(purpose=purpose) if purpose else rows


def get_file(organization: Organization, file_id: UUID | None, *, now: datetime) -> File:
    """Raises NotFound."""
    row = list_files(organization, now=now).filter(pk=file_id).first() if file_id else None
    if row is None:
        raise NotFound("No such file.", field="file_id")
    return row


def list_jobs(
    organization: Organization, *, metadata: Mapping[str, str] | None = None
) -> QuerySet[FineTuningJob]:
    """Newest first, with their runs; only those that have all of `metadata`."""
    rows = FineTuningJob.objects.of(organization).select_related(
        "run", "organization", "base_revision"
    )
    return rows.filter(metadata__contains=dict(metadata)) if metadata else rows


def get_job(organization: Organization, job_id: UUID | None) -> FineTuningJob:
    """Raises NotFound."""
    row = list_jobs(organization).filter(pk=job_id).first() if job_id else None
    if row is None:
        raise NotFound("No such fine-tuning job.", field="fine_tuning_job_id")
    return row


def list_batches(organization: Organization) -> QuerySet[Batch]:
    """Newest first."""
    return Batch.objects.of(organization).select_related("input_file", "output_file", "error_file")


def get_batch(organization: Organization, batch_id: UUID | None) -> Batch:
    """Raises NotFound."""
    row = list_batches(organization).filter(pk=batch_id).first() if batch_id else None
    if row is None:
        raise NotFound("No such batch.", field="batch_id")
    return row


def list_open_batches() -> QuerySet[Batch]:
    """Of all organizations: those of which something is to be done."""
    return Batch.objects.exclude(status__in=BATCH_OVER)


def find_result(organization: Organization, name: str) -> Revision | None:
    """The revision behind the name of a fine-tuned model of the organization, or of one of its
    checkpoints; None if there is no such name, or nothing behind it yet."""
    checkpoint = names.read_checkpoint_name(name)
    model = checkpoint[0] if checkpoint else name
    job = list_jobs(organization).filter(fine_tuned_model=model).first()
    if job is None or job.run is None or job.run.result_revision is None:
        return None
    if checkpoint is None:
        return job.run.result_revision
    return next((each.revision for each in list_snapshots(job) if each.name == name), None)


@dataclass(frozen=True)
class Snapshot:
    """A model that a job made, at the end or on the way there."""

    name: str
    step: int
    revision: Revision
    train_loss: float | None  # measured last by then
    valid_loss: float | None
    train_accuracy: float | None  # of tokens; preference methods have none
    valid_accuracy: float | None


def list_snapshots(job: FineTuningJob) -> list[Snapshot]:
    """The checkpoints that were published, and the result as the last, newest first."""
    run = job.run
    if run is None or run.result_revision is None:
        return []
    rows = Revision.objects.filter(
        registered_model=run.result_revision.registered_model,
        lineage__training_run__id=str(run.pk),
        lineage__checkpoint_step__isnull=False,
    )
    result_step = run.step if run.result_step is None else run.result_step
    found = [(result_step, job.fine_tuned_model, run.result_revision)]
    for revision in rows.exclude(pk=run.result_revision.pk):
        step = int(revision.lineage["checkpoint_step"])
        found.append((step, names.checkpoint_name(job.fine_tuned_model, step), revision))
    found.sort(key=lambda each: each[0], reverse=True)
    return [
        Snapshot(
            name=name,
            step=step,
            revision=revision,
            train_loss=_last(run, "loss", step),
            valid_loss=_last(run, "eval_loss", step),
            train_accuracy=_last(run, "details__token_accuracy", step),
            valid_accuracy=_last(run, "eval_details__token_accuracy", step),
        )
        for step, name, revision in found
    ]


def _last(run: TrainingRun, measure: str, step: int) -> float | None:
    rows = TrainingMetric.objects.filter(run=run, step__lte=step, **{f"{measure}__isnull": False})
    found: float | None = rows.order_by("-step").values_list(measure, flat=True).first()
    return found


def status_of(job: FineTuningJob) -> str:
    """In OpenAI's words. What was asked for and cannot fail any more counts as done: clients wait
    for `cancelled` and `paused`. Succeeded means that the model can be called."""
    if job.status in JOB_OVER:
        return str(job.status)
    run = job.run
    if job.cancel_requested_at is not None or (run and run.cancel_requested_at is not None):
        return "cancelled"
    if run is None:
        return "validating_files"
    if run.status in {R.FAILED, R.CANCELLED}:
        return str(run.status)
    if run.pause_requested_at is not None and run.status in PAUSABLE:
        return "paused"
    if run.status in WAITING or (run.status == R.STARTING and run.started_at is None):
        return "queued"
    return "running"


WAITING = {R.PENDING, R.PAUSED}  # paused without being asked to be: it was just resumed
PAUSABLE = WAITING | {R.STARTING, R.RUNNING, R.STOPPING}


def list_unsettled() -> QuerySet[FineTuningJob]:
    """Jobs of which something is to be done: files to check, or a run that is over to follow."""
    runs_over = Q(run__status__in=[R.SUCCEEDED, R.FAILED, R.CANCELLED])
    rows = FineTuningJob.objects.filter(Q(status=JobStatus.VALIDATING) | runs_over)
    return rows.exclude(status__in=JOB_OVER).order_by("created_at")
