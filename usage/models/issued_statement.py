from django.db import models

from accounts.models import OfOrganization
from common.models import Identified


class IssuedStatement(Identified, OfOrganization):
    """The statement of a month whose hours are all sealed, as it was issued. It never changes: what
    comes to light later is on a later one."""

    number = models.PositiveIntegerField(help_text="Counts up from 1 within the organization.")
    month = models.CharField(max_length=7, help_text="YYYY-MM, in the organization's time zone.")
    begins_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    issued_at = models.DateTimeField()
    currency = models.CharField(max_length=3)
    total = models.DecimalField(max_digits=24, decimal_places=6)
    body = models.JSONField(help_text="All of its lines and shares.")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the body.")

    class Meta:
        ordering = ["organization", "-month"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "number"], name="statement_number_once"
            ),
            models.UniqueConstraint(fields=["organization", "month"], name="statement_month_once"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.organization.slug}-{self.number:05d}"
