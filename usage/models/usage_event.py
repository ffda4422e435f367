from django.db import models

from accounts.models import OfOrganization


class UsageEvent(OfOrganization):
    """One request that an engine answered or began to answer. Append-only; `request_id` makes it
    count once, however often it is delivered. Names are kept: the row outlives what it names."""

    id = models.BigAutoField(primary_key=True)
    request_id = models.CharField(max_length=64, unique=True)
    at = models.DateTimeField(db_index=True)
    key_id = models.UUIDField(null=True, blank=True)
    key_name = models.CharField(max_length=80, blank=True, default="")
    model_name = models.CharField(max_length=200)
    deployment_id = models.UUIDField(null=True, blank=True)
    deployment_name = models.CharField(max_length=200, blank=True, default="")
    replica_id = models.UUIDField(null=True, blank=True)
    revision_id = models.UUIDField(null=True, blank=True)
    endpoint = models.CharField(max_length=40, default="chat/completions")
    input_tokens = models.PositiveIntegerField(default=0)
    cached_input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    status_code = models.PositiveSmallIntegerField(default=200)
    is_interrupted = models.BooleanField(
        default=False, help_text="The client left or the engine died before the end."
    )
    is_streamed = models.BooleanField(default=False)
    is_batch = models.BooleanField(
        default=False, help_text="Answered on idle capacity, at the price of batches."
    )
    provider_name = models.CharField(
        max_length=60,
        blank=True,
        default="",
        help_text="The external provider that answered, at its own prices.",
    )
    late_hour = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="It came after its own hour was sealed: the hour in which it counts instead.",
    )
    first_token_milliseconds = models.FloatField(null=True, blank=True)
    duration_milliseconds = models.FloatField(null=True, blank=True)

    class Meta:
        ordering = ["-at"]
        indexes = [
            models.Index(fields=["organization", "at"]),
            models.Index(fields=["organization", "id"], name="usage_event_cursor"),
            models.Index(
                fields=["organization", "late_hour"],
                condition=models.Q(late_hour__isnull=False),
                name="usage_event_late",
            ),
        ]

    def __str__(self) -> str:
        return self.request_id
