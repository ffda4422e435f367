"""Words that usage rows are written in."""

from django.db import models
from django.utils.translation import gettext_lazy as _

# The purpose of tokens that an external provider answered for; their subject is its name.
PROVIDER = "provider"


class Item(models.TextChoices):
    """What is counted in the ledger, with its unit."""

    REQUESTS = "requests", _("Requests")
    INPUT_TOKENS = "input_tokens", _("Input tokens")
    CACHED_INPUT_TOKENS = "cached_input_tokens", _("Cached input tokens")
    OUTPUT_TOKENS = "output_tokens", _("Output tokens")
    BATCH_INPUT_TOKENS = "batch_input_tokens", _("Input tokens of batches")
    BATCH_OUTPUT_TOKENS = "batch_output_tokens", _("Output tokens of batches")
    TRAINING_TOKENS = "training_tokens", _("Training tokens")
    ACCELERATOR_SECONDS = "accelerator_seconds", _("Accelerator seconds")
    STORAGE_GIGABYTE_HOURS = "storage_gigabyte_hours", _("Storage, gigabyte-hours")


class Stored(models.TextChoices):
    """What takes room."""

    REVISION = "revision", _("Revision of a model")
    DATASET_VERSION = "dataset_version", _("Version of a dataset")
    CHECKPOINT = "checkpoint", _("Checkpoint of a run")
    FILE = "file", _("File")
