"""Words that training's rows are written in. The same tables stand in docs/states.md."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Tuning(models.TextChoices):
    FULL = "full", _("All weights")
    LORA = "lora", _("LoRA adapter")
    QLORA = "qlora", _("LoRA adapter over a base in 4 bits")


class RunStatus(models.TextChoices):
    PENDING = "pending", _("Pending")  # wanted; holds no accelerators
    STARTING = "starting", _("Starting")  # accelerators held; the node fetches weights and data
    RUNNING = "running", _("Running")  # the trainer reports progress
    STOPPING = "stopping", _("Stopping")  # cancel or pause was asked; the trainer is being ended
    PUBLISHING = "publishing", _("Publishing")  # trained; the result is being registered
    PAUSED = "paused", _("Paused")  # holds nothing but its checkpoints, until it is resumed
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


S = RunStatus
RUN_TRANSITIONS: dict[str, set[str]] = {
    S.PENDING: {S.STARTING, S.PAUSED, S.CANCELLED, S.FAILED},
    # back to pending: the node was lost or is being emptied; accelerators are given back
    S.STARTING: {S.RUNNING, S.STOPPING, S.PENDING, S.PUBLISHING, S.FAILED},
    # back to starting: the trainer died or yielded, and resumes on the accelerators it holds
    S.RUNNING: {S.STARTING, S.STOPPING, S.PENDING, S.PUBLISHING, S.FAILED},
    # back to starting: resumed before its trainer had ended; publishing: it had just finished
    S.STOPPING: {S.CANCELLED, S.PAUSED, S.STARTING, S.PUBLISHING, S.PENDING, S.FAILED},
    # back to pending: the result was lost with its node before it was registered
    S.PUBLISHING: {S.SUCCEEDED, S.PENDING, S.FAILED},
    S.PAUSED: {S.PENDING, S.CANCELLED},
    S.SUCCEEDED: set(),
    S.FAILED: set(),
    S.CANCELLED: set(),
}
TERMINAL = {status for status, onward in RUN_TRANSITIONS.items() if not onward}
HOLDING = {S.STARTING, S.RUNNING, S.STOPPING, S.PUBLISHING}  # the agent's to step


class EventLevel(models.TextChoices):
    INFO = "info", _("Information")
    WARN = "warn", _("Warning")
    ERROR = "error", _("Error")


class EvaluationStatus(models.TextChoices):
    PENDING = "pending", _("Pending")
    RUNNING = "running", _("Running")
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


E = EvaluationStatus
EVALUATION_TRANSITIONS: dict[str, set[str]] = {
    E.PENDING: {E.RUNNING, E.FAILED, E.CANCELLED},
    E.RUNNING: {E.SUCCEEDED, E.FAILED, E.CANCELLED},
    E.SUCCEEDED: set(),
    E.FAILED: set(),
    E.CANCELLED: set(),
}
EVALUATION_OVER = {status for status, onward in EVALUATION_TRANSITIONS.items() if not onward}


class DatasetKind(models.TextChoices):
    """What canonical lines of a version hold; each method of training needs one of them."""

    CHAT = "chat", _("Conversations")
    PREFERENCE = "preference", _("Preferences")
    LABEL = "label", _("Labelled answers")
    LM_TASK = "lm_task", _("Benchmark task")  # lm-eval's: documents and how to ask them


class VersionStatus(models.TextChoices):
    CHECKING = "checking", _("Checking")  # uploaded; a worker reads every line
    READY = "ready", _("Ready")  # every line is good; there are splits
    REFUSED = "refused", _("Refused")  # lines to mend; nothing of it can be used


V = VersionStatus
VERSION_TRANSITIONS: dict[str, set[str]] = {
    V.CHECKING: {V.READY, V.REFUSED},
    V.READY: set(),
    V.REFUSED: set(),
}


class CountStatus(models.TextChoices):
    """Of tokens counted once more, with the tokenizer of another model."""

    COUNTING = "counting", _("Counting")  # asked for; a worker counts
    READY = "ready", _("Ready")
    FAILED = "failed", _("Failed")  # the model cannot count; it may be asked again


C = CountStatus
COUNT_TRANSITIONS: dict[str, set[str]] = {
    C.COUNTING: {C.READY, C.FAILED},
    C.READY: set(),
    C.FAILED: {C.COUNTING},
}
