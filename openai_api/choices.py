"""Words that files and fine-tuning jobs are written in. The same table stands in docs/states.md."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Purpose(models.TextChoices):
    """OpenAI's words for what a file is for."""

    FINE_TUNE = "fine-tune", _("Fine-tuning")
    RESULTS = "fine-tune-results", _("Results of fine-tuning")  # made by the platform
    BATCH = "batch", _("Batch")
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
