from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import OfOrganization
from common.models import Identified
from deployments.models.deployment import Deployment

PROVIDER_NAME = RegexValidator(
    r"^[a-z0-9][a-z0-9._-]{0,59}\Z", _("Use lower case letters, digits, dots, - and _.")
)


class Provider(Identified, OfOrganization):
    """An OpenAI-compatible service outside, with the organization's own key there.

    The key is sealed (`common.boxes`); no page and no answer ever shows it. Its prices are entries
    of the price book that name it.
    """

    name = models.CharField(max_length=60, validators=[PROVIDER_NAME])
    base_url = models.CharField(
        max_length=300, help_text="What stands before /chat/completions, as a rule with /v1."
    )
    sealed_key = models.BinaryField(editable=False)
    key_hint = models.CharField(max_length=8, help_text="The end of the key, to tell it by.")
    is_enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField()
    # what the last look at it said
    checked_at = models.DateTimeField(null=True, blank=True)
    problem = models.CharField(max_length=300, blank=True, default="")
    model_names = models.JSONField(default=list, blank=True)  # that it says it has

    class Meta:
        ordering = ["organization", "name"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "name"], name="provider_name_once"),
        ]

    def __str__(self) -> str:
        return self.name


class Route(Identified, OfOrganization):
    """A public model name of an organization, as clients say it in `model`."""

    name = models.CharField(max_length=200)
    created_at = models.DateTimeField()
    shadow_deployment = models.ForeignKey(
        Deployment,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="A candidate that is asked, too: its answers are kept and given to nobody.",
    )
    shadow_percent = models.PositiveSmallIntegerField(
        default=0, validators=[MaxValueValidator(100)], help_text="Of the requests."
    )

    class Meta:
        ordering = ["organization", "name"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "name"], name="route_name_once"),
        ]

    def __str__(self) -> str:
        return self.name


class RouteTarget(Identified):
    """A deployment or a provider that answers a route, and its share of the traffic.

    Targets of rank 0 share it by their weights; those of rank 1 get what none of rank 0 can answer,
    and so on.
    """

    route = models.ForeignKey(Route, on_delete=models.CASCADE, related_name="targets")
    deployment = models.ForeignKey(
        Deployment, null=True, blank=True, on_delete=models.PROTECT, related_name="route_targets"
    )
    provider = models.ForeignKey(
        Provider, null=True, blank=True, on_delete=models.PROTECT, related_name="route_targets"
    )
    provider_model_name = models.CharField(
        max_length=200, blank=True, default="", help_text="What the provider calls the model."
    )
    weight = models.PositiveSmallIntegerField(default=100)
    rank = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["route", "rank", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["route", "deployment", "provider", "provider_model_name"],
                name="route_target_once",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=models.Q(deployment__isnull=True, provider__isnull=False)
                & ~models.Q(provider_model_name="")
                | models.Q(deployment__isnull=False, provider__isnull=True, provider_model_name=""),
                name="route_target_of_one_kind",
            ),
        ]

    def __str__(self) -> str:
        where = self.deployment or f"{self.provider}/{self.provider_model_name}"
        return f"{self.route} -> {where} ({self.weight})"


class ShadowAnswer(Identified, OfOrganization):
    """A request of which a candidate had a copy, and what both answered. Kept for some days."""

    request_id = models.CharField(max_length=64, unique=True)
    at = models.DateTimeField()
    route_name = models.CharField(max_length=200)
    endpoint = models.CharField(max_length=40)
    request = models.TextField(blank=True)
    primary_name = models.CharField(max_length=200)
    candidate_name = models.CharField(max_length=200)
    primary_text = models.TextField(blank=True)
    candidate_text = models.TextField(blank=True)
    primary_status = models.PositiveSmallIntegerField()
    candidate_status = models.PositiveSmallIntegerField(help_text="0: it did not answer.")
    primary_tokens = models.PositiveIntegerField(default=0)
    candidate_tokens = models.PositiveIntegerField(default=0)
    primary_first_token_milliseconds = models.FloatField(null=True, blank=True)
    candidate_first_token_milliseconds = models.FloatField(null=True, blank=True)
    primary_milliseconds = models.FloatField(null=True, blank=True)
    candidate_milliseconds = models.FloatField(null=True, blank=True)
    is_same = models.BooleanField(help_text="Word for word.")

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["organization", "route_name", "-at"])]

    def __str__(self) -> str:
        return f"{self.route_name} {self.at:%Y-%m-%d %H:%M:%S}"
