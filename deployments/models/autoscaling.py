from django.db import models

from common.models import Identified
from deployments.models.deployment import Deployment


class Autoscaling(Identified):
    """How a deployment's number of replicas follows its load. planner/scaling.py has the rules."""

    deployment = models.OneToOneField(
        Deployment, on_delete=models.CASCADE, related_name="autoscaling"
    )
    enabled = models.BooleanField(default=True)
    min_replicas = models.PositiveSmallIntegerField(default=1)
    max_replicas = models.PositiveSmallIntegerField(default=4)
    target_concurrency = models.FloatField(
        default=8, help_text="Requests in flight that one replica should have."
    )
    target_first_token_milliseconds = models.PositiveIntegerField(
        null=True, blank=True, help_text="p95 of streams; empty: concurrency alone decides."
    )
    scale_down_after_seconds = models.PositiveIntegerField(default=300)
    idle_seconds = models.PositiveIntegerField(
        null=True,
        blank=True,
        default=900,
        help_text="With a minimum of 0: no replica is left after so long without requests.",
    )
    time_zone = models.CharField(
        max_length=64, blank=True, default="", help_text="Of the schedule; empty: the owner's."
    )
    schedule = models.JSONField(default=list, blank=True)  # autoscaling.py reads it
    memory = models.JSONField(default=dict, blank=True, editable=False)  # of earlier looks
    updated_at = models.DateTimeField()

    class Meta:
        ordering = ["deployment"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(max_replicas__gte=1)
                & models.Q(max_replicas__gte=models.F("min_replicas")),
                name="autoscaling_limits_in_order",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.deployment}: {self.min_replicas} to {self.max_replicas}"


class ScalingEvent(Identified):
    """A change of how many replicas are wanted, and why."""

    deployment = models.ForeignKey(
        Deployment, on_delete=models.CASCADE, related_name="scaling_events"
    )
    at = models.DateTimeField()
    from_replicas = models.PositiveSmallIntegerField()
    to_replicas = models.PositiveSmallIntegerField()
    reason = models.CharField(max_length=40)
    message = models.TextField(blank=True, default="")

    class Meta:
        ordering = ["deployment", "-at", "-id"]
        indexes = [models.Index(fields=["deployment", "-at"])]

    def __str__(self) -> str:
        return self.message
