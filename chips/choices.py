"""Words that chips' rows are written in."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class NodeStatus(models.TextChoices):
    READY = "ready", _("Ready")  # heartbeats arrive
    SUSPECT = "suspect", _("Suspect")  # a beat was missed; nothing new is placed here
    LOST = "lost", _("Lost")  # silent for long; what ran there is replaced elsewhere


N = NodeStatus
NODE_TRANSITIONS: dict[str, set[str]] = {
    N.READY: {N.SUSPECT, N.LOST},
    N.SUSPECT: {N.READY, N.LOST},
    N.LOST: {N.READY},
}


class AcceleratorStatus(models.TextChoices):
    HEALTHY = "healthy", _("Healthy")
    UNHEALTHY = "unhealthy", _("Unhealthy")  # the probe saw a fault
    GONE = "gone", _("Gone")  # the node no longer reports it


class Purpose(models.TextChoices):
    """What an allocation is held for."""

    SERVING = "serving", _("Serving")
    TRAINING = "training", _("Training")


class PriceItem(models.TextChoices):
    """What is priced, with its unit."""

    ACCELERATOR_HOUR = "accelerator_hour", _("Accelerator, per hour")
    INPUT_TOKENS = "input_tokens", _("Input tokens, per million")
    CACHED_INPUT_TOKENS = "cached_input_tokens", _("Cached input tokens, per million")
    OUTPUT_TOKENS = "output_tokens", _("Output tokens, per million")
    BATCH_INPUT_TOKENS = "batch_input_tokens", _("Input tokens of batches, per million")
    BATCH_OUTPUT_TOKENS = "batch_output_tokens", _("Output tokens of batches, per million")
    TRAINING_TOKENS = "training_tokens", _("Training tokens, per million")
    STORAGE = "storage", _("Storage, per gigabyte and month of 730 hours")
