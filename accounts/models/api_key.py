from dataclasses import dataclass
from datetime import datetime

from django.contrib.postgres.fields import ArrayField
from django.db import models

from accounts.choices import Scope
from accounts.models.tenancy import OfOrganization
from accounts.models.user import User
from common.models import Identified


@dataclass(frozen=True)
class KeySecret:
    """One secret of a key: how it is found, how it is told, and until when it opens."""

    prefix: str
    hash: bytes
    expires_at: datetime | None


class ApiKey(Identified, OfOrganization):
    """A key of an organization. Only its secret's prefix and a keyed hash are kept; it is shown once.

    A key outlives its secret: rotated, it has a new one, and the previous one works until
    `previous_expires_at`. Usage and limits are the key's, whichever secret was sent.
    """

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
    allowed_networks = ArrayField(
        models.CharField(max_length=43),
        default=list,
        blank=True,
        help_text="Networks it may be used from, such as 10.0.0.0/8; empty means any.",
    )
    is_internal = models.BooleanField(
        default=False, help_text="Made by the platform for its own work, such as an evaluation."
    )
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    rotated_at = models.DateTimeField(
        null=True, blank=True, help_text="When it got its present secret; empty for its first."
    )
    previous_prefix = models.CharField(max_length=24, unique=True, null=True, blank=True)
    previous_secret_hash = models.BinaryField(max_length=32, null=True, blank=True)
    previous_expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                name="previous_secret_is_whole",
                condition=models.Q(
                    previous_prefix__isnull=True,
                    previous_secret_hash__isnull=True,
                    previous_expires_at__isnull=True,
                )
                | models.Q(
                    previous_prefix__isnull=False,
                    previous_secret_hash__isnull=False,
                    previous_expires_at__isnull=False,
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def is_live(self, *, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def has_previous(self, *, now: datetime) -> bool:
        """Whether the secret before the present one still opens."""
        ends = self.previous_expires_at
        return ends is not None and now < ends and self.is_live(now=now)

    @property
    def secrets(self) -> list[KeySecret]:
        """The present secret, and the one before it if there is one, live or not."""
        present = KeySecret(self.prefix, bytes(self.secret_hash), self.expires_at)
        if self.previous_prefix is None or self.previous_secret_hash is None:
            return [present]
        ends = [each for each in (self.previous_expires_at, self.expires_at) if each is not None]
        earlier = KeySecret(self.previous_prefix, bytes(self.previous_secret_hash), min(ends))
        return [present, earlier]
