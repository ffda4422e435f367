"""The one way a tenant's query starts."""

from typing import Self, TypeVar

from django.db import models

from accounts.models.organization import Organization

M = TypeVar("M", bound=models.Model, covariant=True)


class TenantQuerySet(models.QuerySet[M]):
    """Every tenant query starts with `.of(organization)`."""

    def of(self, organization: Organization) -> Self:
        return self.filter(organization=organization)


class OfOrganization(models.Model):
    """Mixin for rows that belong to one organization and stay as long as it does."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")

    objects = TenantQuerySet.as_manager()

    class Meta:
        abstract = True
