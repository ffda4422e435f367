from django.db import models

from accounts.models import Organization
from common.models import Identified


class Pool(Identified):
    """Nodes that are placed on and priced alike."""

    name = models.SlugField(max_length=60, unique=True)
    description = models.TextField(blank=True, default="")
    region = models.CharField(max_length=60, blank=True, default="")
    is_open = models.BooleanField(
        default=True, help_text="Every organization may use it; else only those with a grant."
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class PoolGrant(Identified):
    """An organization may use a pool that is not open to all."""

    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="grants")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["pool", "organization"]
        constraints = [
            models.UniqueConstraint(fields=["pool", "organization"], name="pool_grant_once"),
        ]

    def __str__(self) -> str:
        return f"{self.organization} in {self.pool}"
