from django.db import models

from accounts.models import OfOrganization
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from models_registry.models import Revision
from openai_api.choices import JOB_TRANSITIONS, JobStatus, Method
from openai_api.models.file import File
from training.models import TrainingRun


class FineTuningJob(Identified, OfOrganization, HasStatus, Leased):
    """What a client of /v1/fine_tuning/jobs asked for. Once its files are checked, a training run
    does the work, and says how far it is."""

    TRANSITIONS = JOB_TRANSITIONS

    # what is wanted
    model_name = models.CharField(max_length=200, help_text="As the client said it.")
    base_revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="+")
    init_revision = models.ForeignKey(
        Revision,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The adapter that training goes on from.",
    )
    training_file = models.ForeignKey(File, on_delete=models.PROTECT, related_name="+")
    validation_file = models.ForeignKey(
        File, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    method = models.CharField(max_length=16, choices=Method, default=Method.SUPERVISED)
    hyperparameters = models.JSONField(default=dict, blank=True)  # OpenAI's, where not "auto"
    platform = models.JSONField(
        default=dict, blank=True, help_text="What only this platform knows: tuning, hardware."
    )
    suffix = models.CharField(max_length=64, blank=True, default="")
    seed = models.BigIntegerField()
    metadata = models.JSONField(null=True, blank=True)
    fine_tuned_model = models.CharField(max_length=200, unique=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    requested_by = models.CharField(max_length=150, blank=True, default="")
    # what is
    status = models.CharField(max_length=16, choices=JobStatus, default=JobStatus.VALIDATING)
    run = models.OneToOneField(
        TrainingRun, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    result_file = models.ForeignKey(
        File, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    error = models.JSONField(default=dict, blank=True)  # {"code", "message", "param"} once failed
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=JobStatus.values), name="job_status_known"
            ),
        ]
        indexes = [
            models.Index(fields=["organization", "-id"]),
            models.Index(fields=["status"]),
        ]

    def __str__(self) -> str:
        return self.fine_tuned_model


class JobEvent(models.Model):
    """Something that happened to a job outside of its run: files checked, the result served. Ids are
    numbers: of events of one moment they say the order."""

    job = models.ForeignKey(FineTuningJob, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    level = models.CharField(max_length=8, default="info")  # info, warn, error
    message = models.TextField()
    data = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["job", "-id"]

    def __str__(self) -> str:
        return self.message
