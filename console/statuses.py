"""One look and one word for every status of every noun: a tone, an icon, a translatable label."""

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True)
class Look:
    tone: str  # "good", "warn", "bad", "move" or "" (at rest)
    icon: str
    label: str | Promise


LOOKS: dict[str, Look] = {
    "pending": Look("", "clock", _("Pending")),
    "queued": Look("", "clock", _("Queued")),
    "waiting": Look("", "clock", _("Waiting")),
    "uploading": Look("move", "moving", _("Uploading")),
    "checking": Look("move", "moving", _("Checking")),
    "counting": Look("move", "moving", _("Counting")),
    "importing": Look("move", "moving", _("Importing")),
    "placed": Look("move", "moving", _("Placed")),
    "starting": Look("move", "moving", _("Starting")),
    "running": Look("move", "moving", _("Running")),
    "saving": Look("move", "moving", _("Saving")),
    "merging": Look("move", "moving", _("Merging")),
    "comparing": Look("move", "moving", _("Comparing")),
    "publishing": Look("move", "moving", _("Publishing")),
    "evaluating": Look("move", "moving", _("Evaluating")),
    "yielding": Look("move", "moving", _("Yielding")),
    "cancelling": Look("move", "moving", _("Stopping")),
    "stopping": Look("move", "moving", _("Stopping")),
    "draining": Look("move", "moving", _("Draining")),
    "deleting": Look("move", "moving", _("Being deleted")),
    "progressing": Look("move", "moving", _("In progress")),
    "rolling_back": Look("warn", "moving", _("Rolling back")),
    "updating": Look("move", "moving", _("Updating")),
    "ready": Look("good", "check", _("Ready")),
    "succeeded": Look("good", "check", _("Succeeded")),
    "completed": Look("good", "check", _("Completed")),
    "healthy": Look("good", "check", _("Healthy")),
    "valid": Look("good", "check", _("Valid")),
    "active": Look("good", "check", _("Active")),
    "available": Look("good", "check", _("Available")),
    "allocated": Look("move", "training", _("In use")),
    "paused": Look("warn", "pause", _("Paused")),
    "yielded": Look("warn", "pause", _("Yielded")),
    "degraded": Look("warn", "alert", _("Degraded")),
    "suspect": Look("warn", "alert", _("Suspect")),
    "cordoned": Look("warn", "pause", _("Cordoned")),
    "unhealthy": Look("bad", "alert", _("Unhealthy")),
    "lost": Look("bad", "cross", _("Lost")),
    "failed": Look("bad", "cross", _("Failed")),
    "invalid": Look("bad", "cross", _("Invalid")),
    "refused": Look("bad", "cross", _("Refused")),
    "rejected": Look("bad", "cross", _("Refused")),
    "revoked": Look("", "cross", _("Revoked")),
    "expired": Look("", "clock", _("Expired")),
    "cancelled": Look("", "stop", _("Stopped by a person")),
    "rolled_back": Look("bad", "cross", _("Rolled back")),
    "aborted": Look("", "stop", _("Aborted")),
    "superseded": Look("", "stop", _("Superseded")),
    "stopped": Look("", "stop", _("Stopped")),
    "deleted": Look("", "trash", _("Deleted")),
    "idle": Look("", "dot", _("Idle")),
    "draft": Look("", "dot", _("Draft")),
    "gone": Look("bad", "cross", _("Gone")),
    "open": Look("", "clock", _("Open")),
    "sealed": Look("good", "check", _("Sealed")),
}

# Kinds of events that are no status; others are shown as they are written.
EVENT_WORDS: dict[str, str | Promise] = {
    "started": _("Started"),
    "resumed": _("Resumed"),
    "checkpoint": _("Checkpoint"),
    "restart": _("Restarted"),
    "starts_anew": _("Started anew"),
    "gave_up": _("Gave up"),
    "node_lost": _("Node lost"),
    "published": _("Published"),
    "finished": _("Finished"),
    "warning": _("Warning"),
}

# Why something is as it is: codes of engines' failures and of what the reconciler waits for.
REASON_WORDS: dict[str, str | Promise] = {
    "disk_full": _("Disk full"),
    "port_taken": _("Port taken"),
    "device_missing": _("No device found"),
    "out_of_memory": _("Out of memory"),
    "cache_too_small": _("Too little memory for the cache"),
    "unsupported_architecture": _("Architecture not supported"),
    "unsupported_tokenizer": _("Tokenizer not supported"),
    "context_too_long": _("Context too long"),
    "tensor_parallel": _("Does not divide among the accelerators"),
    "unsupported_dtype": _("Number format not supported"),
    "unreadable_weights": _("Weights cannot be read"),
    "bad_argument": _("Argument refused"),
    "engine_incomplete": _("Engine incomplete"),
    "engine_exited": _("Engine ended"),
    "engine_lost": _("Engine gone"),
    "startup_limit": _("Not ready in time"),
    "engine_unhealthy": _("Engine does not answer"),
    "engine_silent": _("Engine does not answer"),
    "node_lost": _("Node lost"),
    "replicas_failed": _("Replicas failed"),
    "starting_again": _("Starting again"),
}


def reason_word(code: str) -> str:
    """A heading for a reason code; empty for one that needs no word beside its message."""
    return str(REASON_WORDS.get(code, ""))


def event_word(kind: str) -> str:
    """What happened: our word for it, or the kind as it is written."""
    return str(EVENT_WORDS.get(kind) or look_of(kind).label)


def look_of(status: str) -> Look:
    """The look of `status`; an unknown one is shown as it is written, at rest."""
    return LOOKS.get(status, Look("", "dot", status.replace("_", " ").capitalize()))
