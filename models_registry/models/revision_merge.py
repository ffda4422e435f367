from django.db import models

from accounts.models import OfOrganization
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from models_registry.choices import MERGE_TRANSITIONS, MergeStatus
from models_registry.models.revision import Revision


class RevisionMerge(Identified, OfOrganization, HasStatus, Leased):
    """A merge that was asked for: which adapter, into which name, how far, what came of it."""

    TRANSITIONS = MERGE_TRANSITIONS

    adapter = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="merges")
    name = models.CharField(
        max_length=96, help_text="The registered model that the result becomes a revision of."
    )
    status = models.CharField(max_length=16, choices=MergeStatus, default=MergeStatus.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    done_bytes = models.BigIntegerField(default=0)
    total_bytes = models.BigIntegerField(null=True, blank=True)
    peak_memory_bytes = models.BigIntegerField(
        null=True, blank=True, help_text="The most that adding up has held."
    )
    revision = models.ForeignKey(
        Revision, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "adapter", "name"],
                condition=~models.Q(status=MergeStatus.FAILED),
                name="merge_once_per_name",
            ),
        ]
        indexes = [models.Index(fields=["status"])]

    def __str__(self) -> str:
        return f"{self.adapter} as {self.name}"
