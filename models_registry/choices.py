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
    MERGE = "merge", _("Merge of an adapter")


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


class TrialStatus(models.TextChoices):
    """Of an evaluation that a rollout has asked for; whoever carries it out writes it."""

    WANTED = "wanted", _("Wanted")  # nobody has begun it
    RUNNING = "running", _("Running")
    FINISHED = "finished", _("Finished")  # the result is attached to the revision
    FAILED = "failed", _("Failed")  # there is no result; the message says why
    CANCELLED = "cancelled", _("Cancelled")  # whoever asked for it needs it no more


T = TrialStatus
TRIAL_TRANSITIONS: dict[str, set[str]] = {
    T.WANTED: {T.RUNNING, T.FAILED, T.CANCELLED},
    T.RUNNING: {T.FINISHED, T.FAILED, T.CANCELLED},
    T.FINISHED: set(),
    T.FAILED: set(),
    T.CANCELLED: set(),
}
TRIAL_OVER = {status for status, onward in TRIAL_TRANSITIONS.items() if not onward}


class MergeStatus(models.TextChoices):
    PENDING = "pending", _("Pending")  # asked for; no worker has begun
    MERGING = "merging", _("Merging")  # the adapter is added to the base's weights
    COMPARING = "comparing", _("Comparing")  # what is read back is compared with base and adapter
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")


M = MergeStatus
MERGE_TRANSITIONS: dict[str, set[str]] = {
    M.PENDING: {M.MERGING, M.FAILED},
    M.MERGING: {M.COMPARING, M.SUCCEEDED, M.FAILED},
    # back to merging: its worker died, the next one finds the weights there
    M.COMPARING: {M.MERGING, M.SUCCEEDED, M.FAILED},
    M.SUCCEEDED: set(),
    M.FAILED: set(),
}
MERGE_OPEN = {status for status, onward in MERGE_TRANSITIONS.items() if onward}
