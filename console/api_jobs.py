"""What clients of /v1/files and /v1/fine_tuning/jobs made, in the console's words."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Q

from openai_api import names, selectors
from openai_api.models import File, FineTuningJob
from training.models import DatasetVersion, TrainingRun

# Words of OpenAI's statuses that the console has another one for.
STATUSES = {"validating_files": "checking", "queued": "queued"}


@dataclass(frozen=True)
class Job:
    """A job with what a page says of it."""

    row: FineTuningJob
    public_id: str
    status: str
    error: str

    @property
    def run(self) -> TrainingRun | None:
        return self.row.run

    @property
    def is_callable(self) -> bool:
        return self.status == "succeeded"


@dataclass(frozen=True)
class UploadedFile:
    row: File
    public_id: str
    versions: list[DatasetVersion]  # that jobs made of it


def job_of(run: TrainingRun) -> Job | None:
    """The job that wanted the run, if it was one of the API."""
    row = FineTuningJob.objects.filter(run=run).first()
    return None if row is None else shown(row)


def shown(row: FineTuningJob) -> Job:
    status = selectors.status_of(row)
    told: dict[str, Any] = row.error or {}
    error = str(told.get("message", "")) if status == "failed" else ""
    if status == "failed" and not error and row.run is not None:
        error = row.run.message
    return Job(row, names.public_id(names.JOB, row.pk), STATUSES.get(status, status), error)


def files(rows: list[File]) -> list[UploadedFile]:
    """With the dataset versions that jobs made of each."""
    asked = [row.pk for row in rows]
    uses = FineTuningJob.objects.filter(
        Q(training_file__in=asked) | Q(validation_file__in=asked), run__isnull=False
    ).select_related("run__dataset_version__dataset")
    versions: dict[UUID, dict[UUID, DatasetVersion]] = {pk: {} for pk in asked}
    for job in uses:
        if job.run is None:
            continue
        for file_id in (job.training_file_id, job.validation_file_id):
            if file_id in versions:
                version = job.run.dataset_version
                versions[file_id][version.pk] = version
    return [
        UploadedFile(row, names.public_id(names.FILE, row.pk), list(versions[row.pk].values()))
        for row in rows
    ]
