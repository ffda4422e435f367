"""What clients ask for: files kept, jobs started, paused, ended."""

from openai_api.services.batches import BatchIsOver, WantedBatch, cancel_batch, create_batch
from openai_api.services.files import create_file, delete_file, store_result
from openai_api.services.jobs import (
    JobIsOver,
    JobNotReady,
    Wanted,
    cancel_job,
    create_job,
    pause_job,
    resume_job,
)

__all__ = [
    "BatchIsOver",
    "JobIsOver",
    "JobNotReady",
    "Wanted",
    "WantedBatch",
    "cancel_batch",
    "cancel_job",
    "create_batch",
    "create_file",
    "create_job",
    "delete_file",
    "pause_job",
    "resume_job",
    "store_result",
]
