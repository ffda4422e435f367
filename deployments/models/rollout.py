from django.db import models

from common.models import Identified
from common.statuses import HasStatus
from deployments.choices import ROLLOUT_ACTIVE, ROLLOUT_OPEN, ROLLOUT_TRANSITIONS, RolloutStatus
from deployments.choices import Verdict as Verdicts
from deployments.models.deployment import Deployment
from deployments.models.variant import Variant


class Rollout(Identified, HasStatus):
    """A change of what a deployment's replicas run, on its way from asked for to served.

    The row says all there is to know: whoever looks at it next goes on from there. It is written
    with its deployment locked.
    """

    TRANSITIONS = ROLLOUT_TRANSITIONS

    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="rollouts")
    number = models.PositiveIntegerField()  # within its deployment, from 1; the newest wins
    # what is wanted
    to_variant = models.ForeignKey(Variant, on_delete=models.PROTECT, related_name="+")
    plan = models.JSONField()  # deployments/plans.py reads it
    requested_by = models.CharField(max_length=150)
    pause_requested_at = models.DateTimeField(null=True, blank=True)
    promote_requested_at = models.DateTimeField(null=True, blank=True)
    abort_requested_at = models.DateTimeField(null=True, blank=True)
    verdict = models.CharField(max_length=8, choices=Verdicts, blank=True, default="")
    verdict_evidence = models.JSONField(default=dict, blank=True)
    # what is
    from_variant = models.ForeignKey(  # what was served when it began
        Variant, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    status = models.CharField(max_length=16, choices=RolloutStatus, default=RolloutStatus.PENDING)
    step = models.PositiveSmallIntegerField(default=0)  # entered last, from 1
    weight = models.PositiveSmallIntegerField(
        default=0, help_text="Percent of the deployment's requests that new replicas get."
    )
    waits_for = models.CharField(max_length=16, blank=True, default="")
    old_ready = models.PositiveSmallIntegerField(default=0)
    new_ready = models.PositiveSmallIntegerField(default=0)
    most_ready = models.PositiveSmallIntegerField(default=0)  # new ones, at any time
    failures = models.PositiveSmallIntegerField(default=0)  # of new replicas, in a row
    next_start_at = models.DateTimeField(null=True, blank=True)  # back-off after failures
    turned_back = models.CharField(max_length=32, blank=True, default="")  # why it goes back
    measured = models.JSONField(default=dict, blank=True)  # on both sides, at the latest look
    created_at = models.DateTimeField()
    began_at = models.DateTimeField(null=True, blank=True)
    step_entered_at = models.DateTimeField(null=True, blank=True)  # moved on by a pause's length
    progressed_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["deployment", "number"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "number"], name="rollout_number_once"),
            models.UniqueConstraint(
                fields=["deployment"],
                condition=models.Q(status__in=sorted(ROLLOUT_ACTIVE)),
                name="rollout_active_once",
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=RolloutStatus.values), name="rollout_status_known"
            ),
            models.CheckConstraint(
                condition=models.Q(weight__lte=100), name="rollout_weight_percent"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.deployment}, rollout {self.number}"

    @property
    def is_open(self) -> bool:
        return self.status in ROLLOUT_OPEN


class RolloutEvent(Identified):
    """Something worth telling that happened to a rollout."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=40)
    message = models.TextField(blank=True, default="")

    class Meta:
        ordering = ["rollout", "at", "id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.message}"
