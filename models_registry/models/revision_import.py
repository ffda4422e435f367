from django.db import models

from accounts.models import OfOrganization
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from models_registry.choices import IMPORT_TRANSITIONS, ImportStatus, SourceKind, Visibility
from models_registry.models.revision import Revision


class RevisionImport(Identified, OfOrganization, HasStatus, Leased):
    """An import that was asked for: from where, into which name, how far, what came of it."""

    TRANSITIONS = IMPORT_TRANSITIONS

    name = models.CharField(max_length=96)
    visibility = models.CharField(max_length=16, choices=Visibility, default=Visibility.PRIVATE)
    source_kind = models.CharField(max_length=16, choices=SourceKind)
    source = models.CharField(max_length=300)
    source_revision = models.CharField(max_length=100, blank=True, default="")
    licence = models.CharField(max_length=80, blank=True, default="")
    may_use_hub_token = models.BooleanField(
        default=False, help_text="Asked for by an operator: the platform's hub token is sent along."
    )
    status = models.CharField(max_length=16, choices=ImportStatus, default=ImportStatus.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    done_bytes = models.BigIntegerField(default=0)
    total_bytes = models.BigIntegerField(null=True, blank=True)
    revision = models.ForeignKey(
        Revision, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.source} as {self.name}"
