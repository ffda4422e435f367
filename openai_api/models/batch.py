from django.db import models

from accounts.models import ApiKey, OfOrganization
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from openai_api.choices import BATCH_TRANSITIONS, BatchStatus, Endpoint
from openai_api.models.file import File


class Batch(Identified, OfOrganization, HasStatus, Leased):
    """Requests in a file that are answered on idle capacity within a window of time."""

    TRANSITIONS = BATCH_TRANSITIONS

    # what is wanted
    endpoint = models.CharField(max_length=40, choices=Endpoint)
    input_file = models.ForeignKey(File, on_delete=models.PROTECT, related_name="+")
    window_seconds = models.PositiveIntegerField()
    metadata = models.JSONField(null=True, blank=True)
    key = models.ForeignKey(
        ApiKey,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Whose limits and models hold, and by which it is billed.",
    )
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    requested_by = models.CharField(max_length=150, blank=True, default="")
    # what is
    status = models.CharField(max_length=16, choices=BatchStatus, default=BatchStatus.VALIDATING)
    errors = models.JSONField(default=list, blank=True)  # {"code", "line", "message", "param"}
    lines_total = models.PositiveIntegerField(default=0)
    lines_completed = models.PositiveIntegerField(default=0)
    lines_failed = models.PositiveIntegerField(default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    output_file = models.ForeignKey(
        File, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    error_file = models.ForeignKey(
        File, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    in_progress_at = models.DateTimeField(null=True, blank=True)
    finalizing_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "batches"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=BatchStatus.values), name="batch_status_known"
            ),
        ]
        indexes = [
            models.Index(fields=["organization", "-id"]),
            models.Index(fields=["status"]),
        ]

    def __str__(self) -> str:
        return f"batch_{self.id.hex}"


class BatchLine(models.Model):
    """A request of a batch while that is not over: where it lies in the input file, and its answer
    once there is one. Files take their place in the end."""

    id = models.BigAutoField(primary_key=True)
    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="lines")
    number = models.PositiveIntegerField(help_text="Of the line in the file, from 1 on.")
    custom_id = models.CharField(max_length=512)
    model_name = models.CharField(max_length=200)
    offset_bytes = models.BigIntegerField()
    size_bytes = models.IntegerField()
    attempts = models.PositiveSmallIntegerField(default=0)
    status_code = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Of the answer; none yet, or 0: there will be none."
    )
    answer = models.TextField(blank=True, default="")  # the body, JSON
    error_code = models.CharField(max_length=64, blank=True, default="")
    request_id = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["batch", "number"]
        constraints = [
            models.UniqueConstraint(fields=["batch", "number"], name="batch_line_once"),
        ]
        indexes = [
            models.Index(
                fields=["batch", "number"],
                condition=models.Q(status_code__isnull=True),
                name="batch_line_open",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.batch_id}:{self.number}"
