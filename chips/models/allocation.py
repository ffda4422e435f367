from django.db import models

from accounts.models import OfOrganization
from chips.choices import Purpose
from chips.models.accelerator import Accelerator
from chips.models.node import Node
from common.models import Identified


class Allocation(Identified, OfOrganization):
    """Accelerators held by one replica or one training run, all on one node, all or none.

    The row stays after release: chip-seconds are billed from it, so names are kept with it.
    """

    purpose = models.CharField(max_length=16, choices=Purpose)
    holder_id = models.UUIDField(db_index=True)  # the replica's or the run's id
    holder_name = models.CharField(max_length=200)
    subject_name = models.CharField(
        max_length=200, blank=True, default="", help_text="The deployment's or the run's name."
    )
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="allocations")
    node_name = models.CharField(max_length=120)
    pool_name = models.CharField(max_length=60)
    accelerator_type_slug = models.CharField(max_length=80)
    accelerator_share = models.DecimalField(
        max_digits=9, decimal_places=4, help_text="Accelerators held: half of one is 0.5."
    )
    held_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True, blank=True)
    release_reason = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["-held_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["holder_id"],
                condition=models.Q(released_at__isnull=True),
                name="allocation_one_live_per_holder",
            ),
        ]
        indexes = [models.Index(fields=["organization", "held_at"])]

    def __str__(self) -> str:
        return f"{self.accelerator_share} of {self.node_name} for {self.holder_name}"


class AllocatedSlot(Identified):
    """One slot of one accelerator, held. The partial unique index makes two live holders of a
    slot impossible, whatever the code above it does."""

    allocation = models.ForeignKey(Allocation, on_delete=models.CASCADE, related_name="slots")
    accelerator = models.ForeignKey(
        Accelerator, on_delete=models.CASCADE, related_name="allocated_slots"
    )
    slot = models.PositiveSmallIntegerField()
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["accelerator", "slot"]
        constraints = [
            models.UniqueConstraint(
                fields=["accelerator", "slot"],
                condition=models.Q(released_at__isnull=True),
                name="slot_one_live_holder",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.accelerator}#{self.slot}"
