from django.db import models

from accounts.models import OfOrganization
from common.models import Identified
from deployments.models.deployment import Deployment


class Route(Identified, OfOrganization):
    """A public model name of an organization, as clients say it in `model`."""

    name = models.CharField(max_length=200)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["organization", "name"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "name"], name="route_name_once"),
        ]

    def __str__(self) -> str:
        return self.name


class RouteTarget(Identified):
    """A deployment that answers a route, and its share of the traffic."""

    route = models.ForeignKey(Route, on_delete=models.CASCADE, related_name="targets")
    deployment = models.ForeignKey(
        Deployment, on_delete=models.PROTECT, related_name="route_targets"
    )
    weight = models.PositiveSmallIntegerField(default=100)

    class Meta:
        ordering = ["route", "deployment"]
        constraints = [
            models.UniqueConstraint(fields=["route", "deployment"], name="route_target_once"),
        ]

    def __str__(self) -> str:
        return f"{self.route} -> {self.deployment} ({self.weight})"
