from django.db import models

from chips.choices import NODE_TRANSITIONS, NodeStatus
from chips.models.pool import Pool
from common.models import Identified
from common.statuses import HasStatus


class Node(Identified, HasStatus):
    """A machine with an agent on it."""

    TRANSITIONS = NODE_TRANSITIONS

    name = models.CharField(max_length=120, unique=True)
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="nodes")
    address = models.CharField(
        max_length=120, default="127.0.0.1", help_text="Where the gateway reaches its engines."
    )
    status = models.CharField(max_length=16, choices=NodeStatus, default=NodeStatus.READY)
    facts = models.JSONField(default=dict, blank=True)  # cpu model, cores, memory_bytes, versions
    cordoned_at = models.DateTimeField(null=True, blank=True)
    cordon_reason = models.CharField(max_length=200, blank=True, default="")
    registered_at = models.DateTimeField()
    agent_started_at = models.DateTimeField(null=True, blank=True)
    last_heartbeat_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=NodeStatus.values), name="node_status_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def queue(self) -> str:
        """The Celery queue that only this node's agent reads."""
        return f"node.{self.name}"
