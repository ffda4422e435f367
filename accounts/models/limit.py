from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from accounts.choices import LimitKind
from accounts.models.api_key import ApiKey
from accounts.models.tenancy import OfOrganization
from common.models import Identified


class Limit(Identified, OfOrganization):
    """How much an organization, one of its keys, or one model may use of something.

    Every limit that applies to a request must have room for it. Days and months are calendar ones
    in the organization's time zone.
    """

    key = models.ForeignKey(
        ApiKey,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="limits",
        help_text="Empty: all keys of the organization together.",
    )
    model_name = models.CharField(
        max_length=200,
        blank=True,
        default="",
        help_text="A public model name; empty: all models together.",
    )
    kind = models.CharField(max_length=32, choices=LimitKind)
    amount = models.DecimalField(
        max_digits=18,
        decimal_places=6,
        validators=[MinValueValidator(0)],
        help_text="Requests, tokens, or money in the organization's currency.",
    )
    warn_percent = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        default=80,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Owners and admins are told once a day or month when so much is used; empty: never.",
    )
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        ordering = ["organization", "kind", "model_name", "created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "key", "model_name", "kind"],
                name="limit_once",
                nulls_distinct=False,
            ),
        ]

    def __str__(self) -> str:
        scope = ", ".join(filter(None, (self.key.name if self.key else "", self.model_name)))
        return f"{self.organization}: {self.kind} {self.amount.normalize():f} ({scope or 'all'})"


class LimitAlert(Identified, OfOrganization):
    """A limit of which a share was used, told once for each of its periods."""

    limit_id = models.UUIDField()
    kind = models.CharField(max_length=32, choices=LimitKind)
    key_name = models.CharField(max_length=80, blank=True, default="")
    model_name = models.CharField(max_length=200, blank=True, default="")
    amount = models.DecimalField(max_digits=18, decimal_places=6)
    percent = models.PositiveSmallIntegerField()
    period_start = models.DateTimeField()
    at = models.DateTimeField()

    class Meta:
        ordering = ["-at"]
        constraints = [
            models.UniqueConstraint(
                fields=["limit_id", "period_start", "percent"], name="limit_alert_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.organization}: {self.percent} % of {self.kind} {self.amount:f}"
