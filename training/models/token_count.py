from django.db import models

from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from models_registry.models import Revision
from training.choices import COUNT_TRANSITIONS, CountStatus
from training.models.dataset import DatasetVersion


class TokenCount(Identified, HasStatus, Leased):
    """The lines of a version counted once more, as another model's tokenizer and template see them.
    `splits` holds by split what `training.count_tokens` prints."""

    TRANSITIONS = COUNT_TRANSITIONS

    version = models.ForeignKey(
        DatasetVersion, on_delete=models.CASCADE, related_name="token_counts"
    )
    revision = models.ForeignKey(Revision, on_delete=models.CASCADE, related_name="+")
    status = models.CharField(max_length=16, choices=CountStatus, default=CountStatus.COUNTING)
    splits = models.JSONField(default=dict)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["version", "-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["version", "revision"], name="token_count_once"),
            models.CheckConstraint(
                condition=models.Q(status__in=CountStatus.values), name="token_count_status_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} as {self.revision}"
