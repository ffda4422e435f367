"""Words that the registry's rows are written in."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Visibility(models.TextChoices):
    PRIVATE = "private", _("Private")  # its organization alone
    SHARED = "shared", _("Shared")  # every organization may read it, its own may change it


class RevisionKind(models.TextChoices):
    BASE = "base", _("Base")
    FULL = "full", _("Full fine-tune")
    ADAPTER = "adapter", _("Adapter")
    QUANTIZED = "quantized", _("Quantized")


class SourceKind(models.TextChoices):
    FOLDER = "folder", _("Local folder")
    HUGGING_FACE = "huggingface", _("Hugging Face Hub")
    MODELSCOPE = "modelscope", _("ModelScope")
    TRAINING_RUN = "training_run", _("Training run")


class ImportStatus(models.TextChoices):
    PENDING = "pending", _("Pending")  # asked for; no worker has begun
    RUNNING = "running", _("Running")  # files are fetched, hashed, stored
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")


S = ImportStatus
IMPORT_TRANSITIONS: dict[str, set[str]] = {
    S.PENDING: {S.RUNNING, S.FAILED},
    S.RUNNING: {S.SUCCEEDED, S.FAILED},
    S.SUCCEEDED: set(),
    S.FAILED: set(),
}
