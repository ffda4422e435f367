from django.contrib.postgres.fields import ArrayField
from django.db import models

from chips.choices import AcceleratorStatus
from chips.models.accelerator_type import AcceleratorType
from chips.models.node import Node
from common.models import Identified


class Accelerator(Identified):
    """One device of a node; of type CPU it is a group of cores with a share of the memory."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="accelerators")
    type = models.ForeignKey(AcceleratorType, on_delete=models.PROTECT, related_name="+")
    index = models.PositiveSmallIntegerField(help_text="As the driver counts; from 0 on each node.")
    device_id = models.CharField(
        max_length=120, help_text="The driver's lasting id (UUID), or cpu:<first core>."
    )
    cores = ArrayField(models.PositiveSmallIntegerField(), default=list, blank=True)
    memory_bytes = models.BigIntegerField(null=True, blank=True)
    slots = models.PositiveSmallIntegerField(default=1)
    status = models.CharField(
        max_length=16, choices=AcceleratorStatus, default=AcceleratorStatus.HEALTHY
    )
    message = models.TextField(blank=True, default="")
    last_seen_at = models.DateTimeField()

    class Meta:
        ordering = ["node", "index"]
        constraints = [
            models.UniqueConstraint(fields=["node", "device_id"], name="accelerator_once_per_node"),
            models.CheckConstraint(condition=models.Q(slots__gte=1), name="accelerator_has_a_slot"),
        ]

    def __str__(self) -> str:
        return f"{self.node}/{self.device_id}"
