from django.db import models

from accounts.models import OfOrganization
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from models_registry.models import Blob, Revision
from training.choices import VERSION_TRANSITIONS, DatasetKind, VersionStatus


class Dataset(Identified, OfOrganization):
    """A named dataset of one organization; its lines are in immutable versions."""

    name = models.CharField(max_length=96)
    description = models.TextField(blank=True, default="")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["organization", "name"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "name"], name="dataset_name_once"),
        ]

    def __str__(self) -> str:
        return self.name


class DatasetVersion(Identified, HasStatus, Leased):
    """Checked lines that never change. `report` is what the check found.

    `format` is what came in, `kind` what its splits hold: canonical lines of one kind. There are no
    splits, and nothing to train on, before the status is ready.
    """

    TRANSITIONS = VERSION_TRANSITIONS

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=16, choices=DatasetKind, default=DatasetKind.CHAT)
    format = models.CharField(max_length=24, default="openai_chat", blank=True)
    mapping = models.JSONField(default=dict, blank=True, help_text="Columns by field.")
    split_plan = models.JSONField(
        default=dict, blank=True, help_text="How lines were held out, if the splits were made here."
    )
    status = models.CharField(max_length=16, choices=VersionStatus, default=VersionStatus.READY)
    tokenizer_revision = models.ForeignKey(
        Revision, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    lines_done = models.BigIntegerField(default=0, help_text="Looked at so far, by all checks.")
    attempts = models.PositiveSmallIntegerField(default=0)
    report = models.JSONField(default=dict)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["dataset", "-number"]
        constraints = [
            models.UniqueConstraint(
                fields=["dataset", "number"], name="dataset_version_number_once"
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=VersionStatus.values),
                name="dataset_version_status_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.dataset}:{self.number}"


class DatasetSource(Identified):
    """A file of a version as it was uploaded, kept by its hash."""

    version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="sources")
    name = models.SlugField(max_length=40)
    file_name = models.CharField(max_length=200, blank=True, default="")
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    size_bytes = models.BigIntegerField()

    class Meta:
        ordering = ["version", "name"]
        constraints = [
            models.UniqueConstraint(fields=["version", "name"], name="dataset_source_once"),
        ]

    def __str__(self) -> str:
        return f"{self.version}/{self.name} ({self.file_name})"


class DatasetSplit(Identified):
    """One file of a version: `train`, `heldout`, or any other name its owner gave it."""

    version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="splits")
    name = models.SlugField(max_length=40)
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    examples = models.PositiveIntegerField()
    size_bytes = models.BigIntegerField()
    token_count = models.BigIntegerField(
        null=True, blank=True, help_text="With the tokenizer and template named in the report."
    )
    longest_tokens = models.PositiveIntegerField(null=True, blank=True)
    line_index = models.JSONField(
        default=list, blank=True, help_text="[line, byte] where every piece of the file begins."
    )

    class Meta:
        ordering = ["version", "name"]
        constraints = [
            models.UniqueConstraint(fields=["version", "name"], name="dataset_split_once"),
        ]

    def __str__(self) -> str:
        return f"{self.version}/{self.name}"


class DatasetFinding(models.Model):
    """Something the check found about a line (0: about the whole split). `kind` is a word of
    `training.doctor.findings`; `other_split` names a split of the version, or another's by its id."""

    id = models.BigAutoField(primary_key=True)
    version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="findings")
    kind = models.CharField(max_length=32)
    split = models.CharField(max_length=40)
    line = models.PositiveIntegerField()
    field = models.CharField(max_length=200, blank=True, default="")
    excerpt = models.TextField(blank=True, default="")
    other_split = models.CharField(max_length=40, blank=True, default="")
    other_line = models.PositiveIntegerField(default=0)
    score = models.FloatField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["version", "kind", "id"], name="dataset_finding_by_kind")]

    def __str__(self) -> str:
        return f"{self.kind} at {self.split}:{self.line}"
