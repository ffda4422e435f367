from django.db import models

from accounts.models import OfOrganization
from common.models import Identified
from models_registry.models import Blob


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


class DatasetVersion(Identified):
    """Checked lines that never change. `report` is what the check found."""

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    format = models.CharField(max_length=24, default="openai_chat")
    report = models.JSONField(default=dict)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["dataset", "-number"]
        constraints = [
            models.UniqueConstraint(
                fields=["dataset", "number"], name="dataset_version_number_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.dataset}:{self.number}"


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

    class Meta:
        ordering = ["version", "name"]
        constraints = [
            models.UniqueConstraint(fields=["version", "name"], name="dataset_split_once"),
        ]

    def __str__(self) -> str:
        return f"{self.version}/{self.name}"
