from django.db import models

from accounts.models import OfOrganization
from common.models import Identified
from common.statuses import HasStatus
from models_registry.choices import TRIAL_TRANSITIONS, TrialStatus
from models_registry.models.revision import Revision


class Trial(Identified, OfOrganization, HasStatus):
    """An evaluation that a rollout waits for: of a revision, by what a gate's rule asks.

    Who serves asks for it, who evaluates carries it out, and neither knows the other: both know
    this row. Models are named as the gateway leads to them.
    """

    TRANSITIONS = TRIAL_TRANSITIONS

    asked_by = models.UUIDField(unique=True)  # of a floor above: the rollout
    asked_name = models.CharField(max_length=200)
    rule = models.JSONField()  # models_registry/rules.py reads it
    revision = models.ForeignKey(Revision, on_delete=models.CASCADE, related_name="+")
    model_name = models.CharField(max_length=200)
    holder_name = models.CharField(
        max_length=200, blank=True, default="", help_text="Whom it is compared with, if anybody."
    )
    status = models.CharField(max_length=16, choices=TrialStatus, default=TrialStatus.WANTED)
    evaluation_id = models.UUIDField(null=True, blank=True, db_index=True)  # of a floor above
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=TrialStatus.values), name="trial_status_known"
            ),
        ]

    def __str__(self) -> str:
        return f"trial of {self.asked_name}"
