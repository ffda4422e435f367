"""Bringing fine-tuning jobs from what is wanted to what is: files become a dataset and a run, the
result of the run a model that can be called.

A step may run late, twice, or be killed at any point: files that were read give the same dataset
version again, a run is written together with the job that it is for, a name is served once.
"""

import logging
from contextlib import ExitStack
from datetime import datetime
from typing import BinaryIO
from uuid import UUID

from common import leases
from common.errors import DomainError
from deployments import services as deployments
from models_registry.models import Revision
from openai_api import planning, selectors
from openai_api.choices import JOB_OVER, JobStatus, Method
from openai_api.models import FineTuningJob
from openai_api.services import store_result
from openai_api.services.files import open_file
from openai_api.services.jobs import tell
from training import services as training
from training.choices import RunStatus
from training.models import Dataset, DatasetVersion, TrainingRun

logger = logging.getLogger(__name__)

S = JobStatus
R = RunStatus
LEASE_SECONDS = 30.0
ERRORS_TOLD = 10  # lines of a bad file that get an event of their own
PARAMS = {planning.TRAIN: "training_file", planning.VALIDATION: "validation_file"}


def step_job(job_id: UUID, *, now: datetime) -> bool:
    """One step of a job that is not over; true if it moved."""
    rows = FineTuningJob.objects.exclude(status__in=JOB_OVER).select_related(
        "organization",
        "base_revision__registered_model",
        "init_revision",
        "training_file",
        "validation_file",
        "run__result_revision__registered_model",
    )
    job = leases.take(rows, job_id, now=now, seconds=LEASE_SECONDS)
    if job is None:
        return False
    with leases.kept(job, seconds=LEASE_SECONDS):
        if job.run is not None:
            return _follow(job, job.run, now=now)
        if job.cancel_requested_at is not None:
            with leases.finish(job) as current:
                _end(current, S.CANCELLED, "The job was cancelled.", now=now)
            return True
        return _begin(job, now=now)


def _begin(job: FineTuningJob, *, now: datetime) -> bool:
    """Read the files, then want a run on them. Reading may take minutes."""
    try:
        version = _read_files(job, now=now)
        with leases.finish(job) as current:
            current.run = training.create_training_run(
                organization=job.organization, now=now, **planning.run_values(job, version)
            )
            current.save(update_fields=["run"])
            current.transition(S.TRAINING, now=now, reason="validated")
            tell(current, "Files validated, moving job to queued state", now=now)
    except DomainError as refusal:
        with leases.finish(job) as current:
            _refuse(current, refusal, now=now)
    return True


def _read_files(job: FineTuningJob, *, now: datetime) -> DatasetVersion:
    """The job's files as a version of a dataset, checked. Raises DomainError."""
    organization = job.organization
    name = planning.dataset_name(job)
    dataset = Dataset.objects.of(organization).filter(name=name).first()
    if dataset is None:
        dataset = training.create_dataset(
            organization=organization,
            name=name,
            description=f"Uploaded as {job.training_file.filename}",
            now=now,
        )
    given = {planning.TRAIN: job.training_file, planning.VALIDATION: job.validation_file}
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {
            split: stack.enter_context(open_file(file)) for split, file in given.items() if file
        }
        return training.upload_version(
            organization=organization,
            dataset_id=dataset.pk,
            files=files,
            file_names={split: file.filename for split, file in given.items() if file},
            kind=planning.KINDS[Method(job.method)],
            at_once=True,  # a worker is at it already
            now=now,
        )


def _refuse(job: FineTuningJob, refusal: DomainError, *, now: datetime) -> None:
    """The job fails on its files, or on what was asked of training; the first lines at fault have
    an event each."""
    part, _, split = refusal.field.partition(".")
    is_file = isinstance(refusal, training.DatasetInvalid) or part in {"files", "file_id"}
    param = PARAMS.get(split, "training_file") if is_file else refusal.field or None
    code = f"invalid_{param}" if is_file else refusal.code
    details = refusal.details if isinstance(refusal.details, dict) else {}
    for error in details.get("errors", [])[:ERRORS_TOLD]:
        where = PARAMS.get(error.get("split"), "training_file")
        message = f"{where}, line {error.get('line')}: {error.get('message')}"
        tell(job, message, level="error", now=now, line=error.get("line"), param=where)
    message = f"{refusal.message} {refusal.remedy}".strip()
    if is_file:
        message = f"The job failed due to an invalid {str(param).replace('_', ' ')}. {message}"
    _fail(job, code=code, message=message, param=param, now=now)


def _follow(job: FineTuningJob, run: TrainingRun, *, now: datetime) -> bool:
    """What the end of the run means for the job."""
    match run.status:
        case R.SUCCEEDED if run.result_revision is not None:
            _serve(job, run, now=now)
        case R.FAILED | R.SUCCEEDED:
            with leases.finish(job) as current:
                code = run.status_reason or "training_failed"
                _fail(current, code=code, message=run.message, param=None, now=now)
        case R.CANCELLED:
            with leases.finish(job) as current:
                _end(current, S.CANCELLED, "The job was cancelled.", now=now)
        case _:
            leases.release(job)
            return False
    return True


def _serve(job: FineTuningJob, run: TrainingRun, *, now: datetime) -> None:
    """Let the result answer to its name, and then say that the job has succeeded."""
    refusals = [
        (each.name, refusal)
        for each in selectors.list_snapshots(job)
        if (refusal := _serve_one(job, each.name, each.revision, now=now))
    ]
    file = job.result_file or store_result(
        organization=job.organization,
        filename="step_metrics.csv",
        content=planning.result_csv(run),
        now=now,
    )
    with leases.finish(job) as current:
        current.result_file = file
        current.save(update_fields=["result_file"])
        for snapshot in reversed(selectors.list_snapshots(job)):
            if snapshot.name != job.fine_tuned_model:
                message = f"Checkpoint created at step {snapshot.step}: {snapshot.name}"
                tell(current, message, now=now, step=snapshot.step)
        tell(current, f"New fine-tuned model created: {job.fine_tuned_model}", now=now)
        for name, refusal in refusals:
            message = f"{name} is in the registry, and not served: {refusal}"
            tell(current, message, level="warn", now=now)
        _end(current, S.SUCCEEDED, "The job has successfully completed", now=now)


def _serve_one(job: FineTuningJob, name: str, revision: Revision, *, now: datetime) -> str:
    """Why the revision cannot be served under the name; empty if it is."""
    try:
        deployments.serve_result(
            organization=job.organization,
            name=name,
            revision=revision,
            now=now,
        )
    except DomainError as refusal:
        logger.warning("%s cannot be served: %s", name, refusal)
        return f"{refusal.message} {refusal.remedy}".strip()
    return ""


def _fail(job: FineTuningJob, *, code: str, message: str, param: str | None, now: datetime) -> None:
    job.error = {"code": code, "message": message, "param": param}
    job.save(update_fields=["error"])
    _end(job, S.FAILED, message, level="error", reason=code, now=now)


def _end(
    job: FineTuningJob,
    status: S,
    message: str,
    *,
    level: str = "info",
    reason: str = "",
    now: datetime,
) -> None:
    job.ended_at = now
    job.save(update_fields=["ended_at"])
    job.transition(status, now=now, reason=(reason or str(status))[:64], message=message)
    tell(job, message, level=level, now=now)
