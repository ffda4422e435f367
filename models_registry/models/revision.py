from typing import Self

from django.db import models

from accounts.models import Organization
from common.models import Identified
from models_registry.choices import RevisionKind, SourceKind, Visibility
from models_registry.models.registered_model import RegisteredModel


class RevisionQuerySet(models.QuerySet["Revision"]):
    def of(self, organization: Organization) -> Self:
        """What the organization may read."""
        own = models.Q(registered_model__organization=organization)
        shared = models.Q(registered_model__visibility=Visibility.SHARED)
        return self.filter(own | shared)


class Revision(Identified):
    """Immutable weights of a registered model. What is known of them was read from the files."""

    registered_model = models.ForeignKey(
        RegisteredModel, on_delete=models.PROTECT, related_name="revisions"
    )
    number = models.PositiveIntegerField()
    commit = models.CharField(
        max_length=40, db_index=True, help_text="40 hex digits over paths and hashes of all files."
    )
    kind = models.CharField(max_length=16, choices=RevisionKind)
    parent = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="children",
        help_text="The revision that this one was made from; an adapter cannot do without.",
    )
    source_kind = models.CharField(max_length=16, choices=SourceKind)
    source = models.CharField(max_length=300, blank=True, default="")
    # Where it comes from, names kept: {"training_run": {"id", "name"}, "dataset": {...}, ...}
    lineage = models.JSONField(default=dict, blank=True)
    architecture = models.CharField(max_length=80, blank=True, default="")
    model_type = models.CharField(max_length=40, blank=True, default="")
    parameter_count = models.BigIntegerField(null=True, blank=True)
    dtype = models.CharField(max_length=20, blank=True, default="")
    quantization = models.CharField(max_length=40, blank=True, default="")
    context_length_tokens = models.PositiveIntegerField(null=True, blank=True)
    licence = models.CharField(max_length=80, blank=True, default="")
    size_bytes = models.BigIntegerField(default=0)
    facts = models.JSONField(default=dict, blank=True)
    parity = models.JSONField(
        default=dict,
        blank=True,
        help_text="Whether what is served of a trained result is what was trained.",
    )
    created_at = models.DateTimeField()

    objects = RevisionQuerySet.as_manager()

    class Meta:
        ordering = ["registered_model", "-number"]
        constraints = [
            models.UniqueConstraint(
                fields=["registered_model", "number"], name="revision_number_once"
            ),
            models.UniqueConstraint(
                fields=["registered_model", "commit"], name="revision_commit_once"
            ),
            models.CheckConstraint(
                condition=~models.Q(kind=RevisionKind.ADAPTER) | models.Q(parent__isnull=False),
                name="revision_adapter_has_parent",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.registered_model}:{self.number}"

    @property
    def parity_status(self) -> str:
        """passed, failed or unchecked; empty for what was neither trained nor merged here."""
        if self.source_kind not in (SourceKind.TRAINING_RUN, SourceKind.MERGE):
            return ""
        return {True: "passed", False: "failed"}.get(self.parity.get("passed"), "unchecked")
