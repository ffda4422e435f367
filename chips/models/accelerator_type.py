from django.db import models

from common.models import Identified


class AcceleratorType(Identified):
    """One device's data sheet. Null means not published: it is learned by measuring, not guessed."""

    slug = models.SlugField(max_length=80, unique=True)
    vendor = models.CharField(max_length=60)
    model = models.CharField(max_length=80)
    vendor_country = models.CharField(max_length=2, blank=True, default="")
    memory_bytes = models.BigIntegerField(null=True, blank=True)
    bandwidth_bytes_per_second = models.BigIntegerField(null=True, blank=True)
    bf16_flops = models.BigIntegerField(null=True, blank=True)
    torch_device = models.CharField(max_length=20, blank=True, default="")
    visible_devices_variable = models.CharField(max_length=60, blank=True, default="")
    engines = models.JSONField(default=list, blank=True)
    name_match = models.CharField(
        max_length=120,
        blank=True,
        default="",
        help_text="Part of the name that the driver reports.",
    )
    slots = models.PositiveSmallIntegerField(
        default=1, help_text="In how many equal shares one accelerator may be held; 1: whole only."
    )
    data_sheet = models.JSONField(default=dict, blank=True)
    source = models.TextField(blank=True, default="")
    confidence = models.CharField(max_length=20, blank=True, default="")

    class Meta:
        ordering = ["vendor", "model"]

    def __str__(self) -> str:
        return f"{self.vendor} {self.model}"
