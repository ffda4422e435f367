from django.db import models

from common.models import Identified
from models_registry.models.revision import Revision


class Blob(models.Model):
    """One file's content, named by its hash, shared by all who have the same bytes."""

    sha256 = models.CharField(primary_key=True, max_length=64)
    git_sha1 = models.CharField(
        max_length=40, help_text="The blob's id in git: the hub protocol's ETag for small files."
    )
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.sha256[:12]


class Artifact(Identified):
    """A file of a revision: a path and the blob it holds."""

    revision = models.ForeignKey(Revision, on_delete=models.CASCADE, related_name="artifacts")
    path = models.CharField(max_length=300)
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="artifacts")

    class Meta:
        ordering = ["revision", "path"]
        constraints = [
            models.UniqueConstraint(fields=["revision", "path"], name="artifact_path_once"),
        ]

    def __str__(self) -> str:
        return self.path
