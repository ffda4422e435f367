"""Words that deployments' rows are written in. The same tables stand in docs/states.md."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class ReplicaStatus(models.TextChoices):
    PENDING = "pending", _("Pending")  # wanted; no accelerators yet
    STARTING = "starting", _("Starting")  # placed; the engine is loading weights
    READY = "ready", _("Ready")  # answered a real completion; the gateway may route here
    DRAINING = "draining", _("Draining")  # finishes open requests, takes no new ones
    STOPPED = "stopped", _("Stopped")
    FAILED = "failed", _("Failed")


S = ReplicaStatus
REPLICA_TRANSITIONS: dict[str, set[str]] = {
    S.PENDING: {S.STARTING, S.STOPPED, S.FAILED},
    S.STARTING: {S.READY, S.DRAINING, S.FAILED},
    S.READY: {S.DRAINING, S.FAILED},
    S.DRAINING: {S.STOPPED, S.FAILED},
    S.STOPPED: set(),
    S.FAILED: set(),
}
TERMINAL = {status for status, onward in REPLICA_TRANSITIONS.items() if not onward}
PLACED = {S.STARTING, S.READY, S.DRAINING}  # hold accelerators; the agent's to step


class AttachmentStatus(models.TextChoices):
    """How an adapter stands on one replica."""

    ATTACHED = "attached", _("Attached")  # loaded; the gateway may route here
    FAILED = "failed", _("Failed")  # the engine will not have it; tried again after a pause


ATTACHMENT_TRANSITIONS: dict[str, set[str]] = {
    AttachmentStatus.ATTACHED: {AttachmentStatus.FAILED},
    AttachmentStatus.FAILED: {AttachmentStatus.ATTACHED},
}


class DeploymentStatus(models.TextChoices):
    """Observed from the replicas; nobody sets it by hand."""

    PENDING = "pending", _("Pending")  # no replica is ready yet
    READY = "ready", _("Ready")  # as many ready as wanted
    DEGRADED = "degraded", _("Degraded")  # some ready, fewer than wanted
    FAILED = "failed", _("Failed")  # gave up starting replicas; the reason says why
    STOPPED = "stopped", _("Stopped")  # none wanted, none left
    DELETED = "deleted", _("Deleted")


D = DeploymentStatus
DEPLOYMENT_TRANSITIONS: dict[str, set[str]] = {
    status.value: set() if status is D.DELETED else {str(s) for s in D if s is not status}
    for status in D
}


class RolloutStatus(models.TextChoices):
    PENDING = "pending", _("Pending")  # asked for; an earlier one is still in the way
    PROGRESSING = "progressing", _("In progress")  # replicas start, weights move, steps bake
    PAUSED = "paused", _("Paused")  # a person holds it where it is
    ROLLING_BACK = "rolling_back", _("Rolling back")  # old replicas take over again
    COMPLETED = "completed", _("Completed")  # the new variant is what the deployment serves
    ROLLED_BACK = "rolled_back", _("Rolled back")  # by itself; the reason says why
    ABORTED = "aborted", _("Aborted")  # by a person
    SUPERSEDED = "superseded", _("Superseded")  # by a newer one


R = RolloutStatus
ROLLOUT_TRANSITIONS: dict[str, set[str]] = {
    R.PENDING: {R.PROGRESSING, R.COMPLETED, R.ABORTED, R.SUPERSEDED},
    R.PROGRESSING: {R.PAUSED, R.ROLLING_BACK, R.COMPLETED},
    R.PAUSED: {R.PROGRESSING, R.ROLLING_BACK, R.COMPLETED},
    R.ROLLING_BACK: {R.ROLLED_BACK, R.ABORTED, R.SUPERSEDED},
    R.COMPLETED: set(),
    R.ROLLED_BACK: set(),
    R.ABORTED: set(),
    R.SUPERSEDED: set(),
}
ROLLOUT_ACTIVE = {R.PROGRESSING, R.PAUSED, R.ROLLING_BACK}  # two variants may be running
ROLLOUT_OPEN = ROLLOUT_ACTIVE | {R.PENDING}


class Verdict(models.TextChoices):
    """On a rollout whose last step waits for an evaluation."""

    PASSED = "passed", _("Passed")
    FAILED = "failed", _("Failed")


class LoadTestStatus(models.TextChoices):
    PENDING = "pending", _("Pending")
    RUNNING = "running", _("Running")
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


L = LoadTestStatus
LOAD_TEST_TRANSITIONS: dict[str, set[str]] = {
    L.PENDING: {L.RUNNING, L.FAILED, L.CANCELLED},
    L.RUNNING: {L.SUCCEEDED, L.FAILED, L.CANCELLED},
    L.SUCCEEDED: set(),
    L.FAILED: set(),
    L.CANCELLED: set(),
}
LOAD_TEST_OVER = {status for status, onward in LOAD_TEST_TRANSITIONS.items() if not onward}
