from django.db import models

from accounts.models import OfOrganization
from common.models import Identified
from models_registry.models import Blob
from openai_api.choices import Purpose


class File(Identified, OfOrganization):
    """What a client uploaded, or the platform made for it to download. A deleted one keeps its row,
    for jobs name it, and gives its content up."""

    filename = models.CharField(max_length=255)
    purpose = models.CharField(max_length=32, choices=Purpose)
    blob = models.ForeignKey(
        Blob, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(blob__isnull=False) | models.Q(deleted_at__isnull=False),
                name="file_has_content_until_deleted",
            ),
        ]
        indexes = [models.Index(fields=["organization", "-id"])]

    def __str__(self) -> str:
        return self.filename
