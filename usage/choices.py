"""Words that usage rows are written in."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Item(models.TextChoices):
    """What is counted in the ledger, with its unit."""

    REQUESTS = "requests", _("Requests")
    INPUT_TOKENS = "input_tokens", _("Input tokens")
    CACHED_INPUT_TOKENS = "cached_input_tokens", _("Cached input tokens")
    OUTPUT_TOKENS = "output_tokens", _("Output tokens")
    TRAINING_TOKENS = "training_tokens", _("Training tokens")
    ACCELERATOR_SECONDS = "accelerator_seconds", _("Accelerator seconds")
