from django.db import models

from accounts.models import OfOrganization
from usage.choices import Stored


class StorageHolding(OfOrganization):
    """Room that one thing of an organization took, from when until when.

    Append-only: a thing that grows or shrinks ends its row and begins another. The name is kept, so
    that what was stored is still on the statement when the thing is gone.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=16, choices=Stored)
    subject_id = models.UUIDField()
    subject_name = models.CharField(max_length=200)
    size_bytes = models.BigIntegerField()
    held_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-held_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "subject_id"],
                condition=models.Q(released_at__isnull=True),
                name="storage_held_once",
            ),
        ]
        indexes = [models.Index(fields=["organization", "held_at"])]

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes of {self.subject_name}"
