from django.db import models

from accounts.models import Organization
from chips.choices import PriceItem
from common.models import Identified


class FreeAllowance(Identified):
    """How much of an item is free each calendar month. One for an organization replaces, for that
    item, those for all; one that names a model is for that model alone and comes first."""

    item = models.CharField(max_length=24, choices=PriceItem)
    quantity = models.DecimalField(
        max_digits=24,
        decimal_places=6,
        help_text="In the unit of the price: accelerator-hours, million tokens, gigabyte-months.",
    )
    model_name = models.CharField(
        max_length=200, blank=True, default="", help_text="A public model name; empty means any."
    )
    organization = models.ForeignKey(
        Organization, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)
    note = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        ordering = ["item", "-valid_from"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(quantity__gte=0), name="allowance_not_negative"
            ),
            models.CheckConstraint(
                condition=models.Q(valid_until__isnull=True)
                | models.Q(valid_until__gt=models.F("valid_from")),
                name="allowance_validity_in_order",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} {self.get_item_display()}"
