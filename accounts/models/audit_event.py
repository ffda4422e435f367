from django.db import models

from accounts.models.organization import Organization


class AuditEvent(models.Model):
    """Who changed what. Each row's hash covers the one before it, so that none can be altered
    or taken out unseen. Names are kept beside ids: the row outlives what it speaks of."""

    sequence = models.BigAutoField(primary_key=True)
    organization = models.ForeignKey(
        Organization, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    at = models.DateTimeField(db_index=True)
    actor_kind = models.CharField(max_length=16)  # user, api_key, system, command
    actor_name = models.CharField(max_length=150)
    action = models.CharField(max_length=64)  # noun.verb, such as deployment.scale
    object_id = models.CharField(max_length=64, blank=True, default="")
    object_name = models.CharField(max_length=200, blank=True, default="")
    before = models.JSONField(default=dict, blank=True)
    after = models.JSONField(default=dict, blank=True)
    address = models.CharField(max_length=64, blank=True, default="")
    previous_hash = models.CharField(max_length=64, blank=True, default="")
    hash = models.CharField(max_length=64, unique=True)

    class Meta:
        ordering = ["-sequence"]
        indexes = [models.Index(fields=["organization", "-sequence"])]

    def __str__(self) -> str:
        return f"{self.sequence} {self.action} {self.object_name}"
