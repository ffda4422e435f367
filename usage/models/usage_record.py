from django.db import models

from accounts.models import OfOrganization
from usage.choices import Item


class UsageRecord(OfOrganization):
    """What an organization used of one thing within one hour, rolled up from append-only rows.

    An open hour is computed anew until it is sealed; a sealed one never changes. What comes too late
    for its hour is a record of a later hour that names, in `of_hour`, the one it belongs to.
    """

    id = models.BigAutoField(primary_key=True)
    hour = models.DateTimeField(help_text="The hour's start, UTC.")
    of_hour = models.DateTimeField(
        null=True, blank=True, help_text="Of an adjustment: the sealed hour it belongs to."
    )
    item = models.CharField(max_length=24, choices=Item)
    # what it is counted by: the public model name, or the accelerator type and pool
    model_name = models.CharField(max_length=200, blank=True, default="")
    key_id = models.UUIDField(null=True, blank=True)
    key_name = models.CharField(max_length=80, blank=True, default="")
    accelerator_type_slug = models.CharField(max_length=80, blank=True, default="")
    pool_name = models.CharField(max_length=60, blank=True, default="")
    purpose = models.CharField(max_length=16, blank=True, default="")
    subject_name = models.CharField(max_length=200, blank=True, default="")
    cost_centre = models.CharField(max_length=64, blank=True, default="")
    quantity = models.DecimalField(max_digits=24, decimal_places=6)
    sealed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-hour", "item"]
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "organization",
                    "hour",
                    "of_hour",
                    "item",
                    "model_name",
                    "key_id",
                    "accelerator_type_slug",
                    "pool_name",
                    "purpose",
                    "subject_name",
                    "cost_centre",
                ],
                name="usage_record_once",
                nulls_distinct=False,
            ),
        ]
        indexes = [models.Index(fields=["organization", "hour"])]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.item}"
