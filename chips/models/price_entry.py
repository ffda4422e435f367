from django.db import models

from accounts.models import Organization
from chips.choices import PriceItem
from chips.models.accelerator_type import AcceleratorType
from chips.models.pool import Pool
from common.models import Identified


class PriceEntry(Identified):
    """A price with its validity. The most specific entry valid at the time wins:
    organization, then model or pool and type, then the general one."""

    item = models.CharField(max_length=24, choices=PriceItem)
    unit_price = models.DecimalField(
        max_digits=18, decimal_places=8, help_text="Per accelerator-hour, or per million tokens."
    )
    currency = models.CharField(max_length=3, default="USD")
    accelerator_type = models.ForeignKey(
        AcceleratorType, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    pool = models.ForeignKey(
        Pool, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    model_name = models.CharField(
        max_length=200, blank=True, default="", help_text="A public model name; empty means any."
    )
    provider_name = models.CharField(
        max_length=60,
        blank=True,
        default="",
        help_text="An external provider's own price; empty: of what runs here.",
    )
    organization = models.ForeignKey(
        Organization, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)
    note = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        ordering = ["item", "-valid_from"]
        verbose_name_plural = "price entries"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(unit_price__gte=0), name="price_not_negative"
            ),
            models.CheckConstraint(
                condition=models.Q(valid_until__isnull=True)
                | models.Q(valid_until__gt=models.F("valid_from")),
                name="price_validity_in_order",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.unit_price} {self.currency} {self.get_item_display()}"
