from django.db import models

from common.models import Identified
from deployments.models.deployment import Deployment
from models_registry.models import Revision


class Variant(Identified):
    """What a replica runs: a revision, an engine with its settings, the hardware it asks for.

    Never changed. A deployment that is changed gets another one; one that is changed back finds
    the old one again, by the digest of its content.
    """

    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="variants")
    number = models.PositiveIntegerField()  # within its deployment, from 1
    digest = models.CharField(max_length=64)
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="+")
    engine = models.CharField(max_length=40)
    slots_per_replica = models.PositiveSmallIntegerField()
    accelerators_per_replica = models.PositiveSmallIntegerField()
    pool_name = models.CharField(max_length=60, blank=True, default="")
    settings = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["deployment", "number"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "number"], name="variant_number_once"),
            models.UniqueConstraint(fields=["deployment", "digest"], name="variant_content_once"),
        ]

    def __str__(self) -> str:
        return f"{self.deployment}/{self.number}"
