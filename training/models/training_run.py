from django.db import models

from accounts.models import OfOrganization
from chips.models import Allocation, Node
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from models_registry.models import Revision
from training.choices import RUN_TRANSITIONS, EventLevel, RunStatus, Tuning
from training.models.dataset import DatasetVersion


class TrainingRun(Identified, OfOrganization, HasStatus, Leased):
    """One fine-tuning attempt of a base revision on a dataset version."""

    TRANSITIONS = RUN_TRANSITIONS

    name = models.CharField(max_length=96)
    base_revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="+")
    dataset_version = models.ForeignKey(
        DatasetVersion, on_delete=models.PROTECT, related_name="training_runs"
    )
    train_split = models.CharField(max_length=40, default="train")
    eval_split = models.CharField(max_length=40, blank=True, default="")
    output_name = models.CharField(
        max_length=96, help_text="The registered model that the result becomes a revision of."
    )
    method = models.CharField(max_length=16, default="sft")
    tuning = models.CharField(max_length=16, choices=Tuning, default=Tuning.LORA)
    hyperparameters = models.JSONField(default=dict)
    init_revision = models.ForeignKey(
        Revision,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="An adapter of the same base whose weights the run begins with.",
    )
    recipe = models.CharField(max_length=96, blank=True, default="")  # name@version
    suffix = models.CharField(max_length=64, blank=True, default="")  # of the name for clients
    metadata = models.JSONField(default=dict, blank=True)  # the asker's own, text by text
    # what is wanted
    accelerators_wanted = models.PositiveSmallIntegerField(default=1)
    pool_name = models.CharField(max_length=60, blank=True, default="")
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    pause_requested_at = models.DateTimeField(null=True, blank=True)
    # what is
    status = models.CharField(max_length=16, choices=RunStatus, default=RunStatus.PENDING)
    node = models.ForeignKey(
        Node, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    allocation = models.ForeignKey(
        Allocation, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    attempt = models.PositiveSmallIntegerField(default=0)
    failures = models.PositiveSmallIntegerField(
        default=0, help_text="Trainers that died without progress since the last checkpoint."
    )
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    progress_offset = models.BigIntegerField(default=0)  # bytes of the progress file read so far
    told_at = models.DateTimeField(
        null=True, blank=True, help_text="When the present attempt was last heard of."
    )
    patience_seconds = models.FloatField(
        null=True, blank=True, help_text="How long its trainer may be silent, by its own measure."
    )
    micro_batch_splits = models.PositiveSmallIntegerField(
        default=1, help_text="Into how many parts memory forces each micro-batch to be cut."
    )
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(null=True, blank=True)
    train_loss = models.FloatField(null=True, blank=True)
    eval_loss = models.FloatField(null=True, blank=True)
    best_step = models.PositiveIntegerField(
        null=True, blank=True, help_text="Of the evaluation that was the best so far."
    )
    best_value = models.FloatField(null=True, blank=True)
    result_step = models.PositiveIntegerField(
        null=True, blank=True, help_text="Whose weights the result has."
    )
    stopped_early = models.BooleanField(default=False)
    memory_estimate_bytes = models.BigIntegerField(
        null=True, blank=True, help_text="Of one trainer process, before it began."
    )
    peak_memory_bytes = models.BigIntegerField(
        null=True, blank=True, help_text="The most that its first process has taken."
    )
    tokens_total = models.BigIntegerField(default=0)
    tokens_per_second = models.FloatField(null=True, blank=True)
    seconds_left = models.FloatField(null=True, blank=True)
    log_tail = models.TextField(blank=True, default="")
    result_revision = models.ForeignKey(
        Revision, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=RunStatus.values), name="run_status_known"
            ),
        ]
        indexes = [models.Index(fields=["status"])]

    def __str__(self) -> str:
        return self.name


class Checkpoint(Identified):
    """Weights and everything else needed to go on, saved at a step on a node."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="checkpoints")
    step = models.PositiveIntegerField()
    path = models.CharField(max_length=400)
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField()
    pruned_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["run", "-step"]
        constraints = [
            models.UniqueConstraint(fields=["run", "step"], name="checkpoint_once_per_step"),
        ]

    def __str__(self) -> str:
        return f"{self.run} at step {self.step}"


class TrainingEvent(Identified):
    """Something worth telling that happened to a run."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=40)
    level = models.CharField(max_length=8, choices=EventLevel, default=EventLevel.INFO)
    message = models.TextField(blank=True, default="")
    data = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["run", "at", "id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.message}"


class TrainingMetric(models.Model):
    """What the trainer measured at a step; a step told again after a resume replaces its row."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    at = models.DateTimeField()
    loss = models.FloatField(null=True)
    eval_loss = models.FloatField(null=True)
    learning_rate = models.FloatField(null=True)
    grad_norm = models.FloatField(null=True)
    tokens_per_second = models.FloatField(null=True)
    memory_bytes = models.BigIntegerField(null=True)
    tokens_total = models.BigIntegerField(null=True)  # trained on by then
    details = models.JSONField(default=dict)  # what the method tells beside its loss, by name
    eval_details = models.JSONField(default=dict)  # the same of the held-out set

    class Meta:
        ordering = ["run", "step"]
        constraints = [
            models.UniqueConstraint(fields=["run", "step"], name="metric_once_per_step"),
        ]

    def __str__(self) -> str:
        return f"{self.run} step {self.step}"


class TrainingSample(models.Model):
    """What the model answered to the run's fixed prompts at a step: [{"prompt", "answer"}]."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="samples")
    step = models.PositiveIntegerField()
    at = models.DateTimeField()
    answers = models.JSONField(default=list)

    class Meta:
        ordering = ["run", "step"]
        constraints = [
            models.UniqueConstraint(fields=["run", "step"], name="sample_once_per_step"),
        ]

    def __str__(self) -> str:
        return f"{self.run} step {self.step}"
