from django.db import models

from common.models import Identified
from common.statuses import HasStatus
from deployments.choices import ATTACHMENT_TRANSITIONS, AttachmentStatus
from deployments.models.deployment import Deployment
from deployments.models.replica import Replica
from models_registry.models import Revision


class Attachment(Identified, HasStatus):
    """An adapter on one replica's engine, as the node's agent found it last.

    What is wanted stands elsewhere: every deployment of an adapter wants to be on each ready
    replica of its host, or of itself if it has none. An ended replica keeps no attachments.
    """

    TRANSITIONS = ATTACHMENT_TRANSITIONS

    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, related_name="attachments")
    deployment = models.ForeignKey(
        Deployment, on_delete=models.PROTECT, related_name="attachments"
    )  # the adapter's
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="+")
    status = models.CharField(max_length=16, choices=AttachmentStatus)
    failures = models.PositiveSmallIntegerField(default=0)  # in a row
    next_try_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["deployment", "created_at"]
        constraints = [
            models.UniqueConstraint(fields=["replica", "deployment"], name="attachment_once"),
            models.CheckConstraint(
                condition=models.Q(status__in=AttachmentStatus.values),
                name="attachment_status_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.deployment} on {self.replica}"
