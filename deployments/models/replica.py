from django.db import models

from chips.models import Allocation, Node
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from deployments.choices import PLACED, REPLICA_TRANSITIONS, TERMINAL, ReplicaStatus
from deployments.models.deployment import Deployment
from deployments.models.variant import Variant
from models_registry.models import Revision


class Replica(Identified, HasStatus, Leased):
    """One running copy of a deployment: an engine process on a node."""

    TRANSITIONS = REPLICA_TRANSITIONS

    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="replicas")
    variant = models.ForeignKey(Variant, on_delete=models.PROTECT, related_name="replicas")
    revision = models.ForeignKey(  # its variant's, kept here because so many ask for it
        Revision, on_delete=models.PROTECT, related_name="+"
    )
    generation = models.PositiveIntegerField()
    wanted = models.BooleanField(default=True)
    status = models.CharField(max_length=16, choices=ReplicaStatus, default=ReplicaStatus.PENDING)
    allocation = models.ForeignKey(
        Allocation, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    node = models.ForeignKey(
        Node, null=True, blank=True, on_delete=models.SET_NULL, related_name="replicas"
    )
    address = models.CharField(max_length=120, blank=True, default="")
    port = models.PositiveIntegerField(null=True, blank=True)
    pid = models.PositiveIntegerField(null=True, blank=True)
    drain_deadline_at = models.DateTimeField(null=True, blank=True)
    log_tail = models.TextField(blank=True, default="")
    created_at = models.DateTimeField()
    placed_at = models.DateTimeField(null=True, blank=True)
    ready_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["deployment", "created_at"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=ReplicaStatus.values), name="replica_status_known"
            ),
            models.UniqueConstraint(
                fields=["node", "port"],
                condition=models.Q(status__in=sorted(PLACED)),
                name="replica_port_once_per_node",
            ),
        ]
        indexes = [models.Index(fields=["status"])]

    def __str__(self) -> str:
        return f"{self.deployment}-{str(self.pk)[-6:]}"

    @property
    def is_ended(self) -> bool:
        return self.status in TERMINAL


class ReplicaEvent(Identified):
    """Something worth telling that happened to a replica."""

    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=40)
    message = models.TextField(blank=True, default="")

    class Meta:
        ordering = ["replica", "at", "id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.message}"
