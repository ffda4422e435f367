"""The one way a status moves: along a table of allowed transitions."""

from collections.abc import Mapping, Set
from datetime import datetime

from django.db import models

from common.errors import InvalidTransition

CHANGED = ["status", "status_reason", "message", "status_changed_at"]


class HasStatus(models.Model):
    """Mixin: `status`, why, since when. Subclasses name their table in `TRANSITIONS`."""

    TRANSITIONS: Mapping[str, Set[str]] = {}

    status_reason = models.CharField(max_length=64, blank=True, default="")
    message = models.TextField(blank=True, default="")
    status_changed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True

    status: "models.CharField[str, str]"

    def transition(self, to: str, *, now: datetime, reason: str = "", message: str = "") -> bool:
        """Move to `to`; the only place that writes `status`. False if it is there already.

        Raises InvalidTransition where the table does not allow the step.
        """
        if to == self.status:
            return False
        if to not in self.TRANSITIONS[self.status]:
            raise InvalidTransition(f"{self} cannot go from {self.status} to {to}")
        self.status, self.status_reason, self.message = to, reason, message
        self.status_changed_at = now
        self.save(update_fields=CHANGED)
        return True
