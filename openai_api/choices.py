"""Words that files and fine-tuning jobs are written in. The same table stands in docs/states.md."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Purpose(models.TextChoices):
    """OpenAI's words for what a file is for."""

    FINE_TUNE = "fine-tune", _("Fine-tuning")
    RESULTS = "fine-tune-results", _("Results of fine-tuning")  # made by the platform
    BATCH = "batch", _("Batch")
    BATCH_OUTPUT = "batch_output", _("Answers of a batch")  # made by the platform
    EVALS = "evals", _("Evaluation")
    USER_DATA = "user_data", _("Other")


UPLOADED = (Purpose.FINE_TUNE, Purpose.BATCH, Purpose.EVALS, Purpose.USER_DATA)


class JobStatus(models.TextChoices):
    VALIDATING = "validating", _("Files are checked")  # no training run yet
    TRAINING = "training", _("Training")  # its run says how far it is
    SUCCEEDED = "succeeded", _("Succeeded")  # the result is served under its name
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


S = JobStatus
JOB_TRANSITIONS: dict[str, set[str]] = {
    S.VALIDATING: {S.TRAINING, S.FAILED, S.CANCELLED},
    S.TRAINING: {S.SUCCEEDED, S.FAILED, S.CANCELLED},
    S.SUCCEEDED: set(),
    S.FAILED: set(),
    S.CANCELLED: set(),
}
JOB_OVER = {status for status, onward in JOB_TRANSITIONS.items() if not onward}


class Method(models.TextChoices):
    """OpenAI's words for training's methods."""

    SUPERVISED = "supervised", _("Supervised")
    DPO = "dpo", _("Direct preference optimization")


class BatchStatus(models.TextChoices):
    """OpenAI's words for how far a batch is."""

    VALIDATING = "validating", _("Lines are checked")
    FAILED = "failed", _("Failed")  # not one line was sent: the file is not right
    IN_PROGRESS = "in_progress", _("In progress")
    FINALIZING = "finalizing", _("Files are written")
    COMPLETED = "completed", _("Completed")
    EXPIRED = "expired", _("Expired")  # what was answered in time is in its files
    CANCELLING = "cancelling", _("Being cancelled")
    CANCELLED = "cancelled", _("Cancelled")  # what was answered by then is in its files


B = BatchStatus
BATCH_TRANSITIONS: dict[str, set[str]] = {
    B.VALIDATING: {B.FAILED, B.IN_PROGRESS, B.CANCELLING},
    B.IN_PROGRESS: {B.FINALIZING, B.CANCELLING},
    B.FINALIZING: {B.COMPLETED, B.EXPIRED},
    B.CANCELLING: {B.CANCELLED},
    B.COMPLETED: set(),
    B.FAILED: set(),
    B.EXPIRED: set(),
    B.CANCELLED: set(),
}
BATCH_OVER = {status for status, onward in BATCH_TRANSITIONS.items() if not onward}


class Endpoint(models.TextChoices):
    """What a batch's lines may ask for."""

    CHAT = "/v1/chat/completions", "/v1/chat/completions"
    COMPLETIONS = "/v1/completions", "/v1/completions"
    EMBEDDINGS = "/v1/embeddings", "/v1/embeddings"
