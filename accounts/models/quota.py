from django.db import models

from accounts.models.tenancy import OfOrganization
from common.models import Identified


class Quota(Identified, OfOrganization):
    """How many accelerators an organization may hold at once; no row means no limit."""

    pool_name = models.CharField(
        max_length=60, blank=True, default="", help_text="Empty: all pools together."
    )
    max_accelerators = models.PositiveIntegerField()

    class Meta:
        ordering = ["organization", "pool_name"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "pool_name"], name="quota_once"),
        ]

    def __str__(self) -> str:
        return f"{self.organization}: {self.max_accelerators} in {self.pool_name or 'all pools'}"
