from datetime import datetime

from django.contrib.postgres.fields import ArrayField
from django.db import models

from accounts.choices import Scope
from accounts.models.tenancy import OfOrganization
from accounts.models.user import User
from common.models import Identified


class ApiKey(Identified, OfOrganization):
    """A key of an organization. Only its prefix and a keyed hash are kept; it is shown once."""

    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=24, unique=True)
    secret_hash = models.BinaryField(max_length=32)
    scopes = ArrayField(models.CharField(max_length=16, choices=Scope))
    allowed_models = ArrayField(
        models.CharField(max_length=200),
        default=list,
        blank=True,
        help_text="Public model names the key may call; empty means all of the organization's.",
    )
    is_internal = models.BooleanField(
        default=False, help_text="Made by the platform for its own work, such as an evaluation."
    )
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def is_live(self, *, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)
