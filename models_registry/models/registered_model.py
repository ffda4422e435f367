from typing import Self

from django.core.validators import RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from accounts.models.tenancy import TenantQuerySet
from common.models import Identified
from models_registry.choices import Visibility

NAME = RegexValidator(
    r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9])?\Z",
    _("Use 1 to 96 letters, digits, dots, hyphens and underscores, as hubs do."),
)


class RegisteredModelQuerySet(TenantQuerySet["RegisteredModel"]):
    def of(self, organization: Organization) -> Self:
        """What the organization may read: its own, and what others share with all."""
        own = models.Q(organization=organization)
        return self.filter(own | models.Q(visibility=Visibility.SHARED))

    def owned_by(self, organization: Organization) -> Self:
        """What the organization may change."""
        return self.filter(organization=organization)


class RegisteredModel(Identified):
    """A named model; its weights are in revisions. Its id for clients is `organization/name`."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(max_length=96, validators=[NAME])
    description = models.TextField(blank=True, default="")
    visibility = models.CharField(max_length=16, choices=Visibility, default=Visibility.PRIVATE)
    created_at = models.DateTimeField()

    objects = RegisteredModelQuerySet.as_manager()

    class Meta:
        ordering = ["organization", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "name"], name="registered_model_name_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.organization}/{self.name}"


class Alias(Identified):
    """A name that moves, such as `champion`, on one revision of its model."""

    registered_model = models.ForeignKey(
        RegisteredModel, on_delete=models.CASCADE, related_name="aliases"
    )
    name = models.SlugField(max_length=40)
    revision = models.ForeignKey(
        "models_registry.Revision", on_delete=models.PROTECT, related_name="aliases"
    )
    moved_at = models.DateTimeField()

    class Meta:
        ordering = ["registered_model", "name"]
        verbose_name_plural = "aliases"
        constraints = [
            models.UniqueConstraint(fields=["registered_model", "name"], name="alias_once"),
        ]

    def __str__(self) -> str:
        return f"{self.registered_model}@{self.name}"
