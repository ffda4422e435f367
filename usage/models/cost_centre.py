from django.db import models
from django.db.models import Q

from accounts.models import OfOrganization
from common.models import Identified


class CostCentre(Identified, OfOrganization):
    """Who within an organization bears the use of a key, of a deployment or, where neither is named,
    of all else. Begins and ends at full hours; a change ends the row before and adds one."""

    code = models.CharField(max_length=64, blank=True, help_text="Empty: nobody in particular.")
    key_id = models.UUIDField(null=True, blank=True)
    deployment_name = models.CharField(max_length=200, blank=True, default="")
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["organization", "-valid_from"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "key_id", "deployment_name"],
                condition=Q(valid_until__isnull=True),
                name="cost_centre_one_at_a_time",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=Q(key_id__isnull=True) | Q(deployment_name=""),
                name="cost_centre_of_one_thing",
            ),
        ]

    def __str__(self) -> str:
        return self.code
