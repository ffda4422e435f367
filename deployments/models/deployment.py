from django.db import models

from accounts.models import OfOrganization
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from deployments.choices import DEPLOYMENT_TRANSITIONS, DeploymentStatus
from models_registry.models import Revision


class Deployment(Identified, OfOrganization, HasStatus, Leased):
    """A revision that is wanted served: `desired_replicas` copies, each on its accelerators."""

    TRANSITIONS = DEPLOYMENT_TRANSITIONS

    name = models.CharField(max_length=200)
    # what is wanted
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="deployments")
    engine = models.CharField(max_length=40, default="transformers")
    host = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="guests",
        help_text="Of an adapter: the deployment whose replicas serve it beside their own model.",
    )
    desired_replicas = models.PositiveSmallIntegerField(default=1)
    slots_per_replica = models.PositiveSmallIntegerField(
        default=1, help_text="Slots of a shareable accelerator; whole ones count all their slots."
    )
    accelerators_per_replica = models.PositiveSmallIntegerField(
        default=0, help_text="Whole accelerators; 0 means `slots_per_replica` of one."
    )
    pool_name = models.CharField(max_length=60, blank=True, default="")
    # max_context_tokens, max_concurrency, dtype: planning.py reads them
    settings = models.JSONField(default=dict, blank=True)
    # how changes are rolled out unless they say otherwise; plans.py reads it
    rollout_plan = models.JSONField(default=dict, blank=True)
    generation = models.PositiveIntegerField(default=1)
    delete_requested_at = models.DateTimeField(null=True, blank=True)
    # what is
    observed_generation = models.PositiveIntegerField(default=0)
    status = models.CharField(
        max_length=16, choices=DeploymentStatus, default=DeploymentStatus.PENDING
    )
    failures = models.PositiveSmallIntegerField(
        default=0, help_text="Replicas that failed in a row; a ready one sets it back."
    )
    next_start_at = models.DateTimeField(null=True, blank=True)  # back-off after failures
    created_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["organization", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "name"],
                condition=models.Q(deleted_at__isnull=True),
                name="deployment_name_once",
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=DeploymentStatus.values),
                name="deployment_status_known",
            ),
        ]

    def __str__(self) -> str:
        return self.name
