from django.db import models

from accounts.models import OfOrganization
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from deployments.choices import LOAD_TEST_TRANSITIONS, LoadTestStatus
from deployments.models.deployment import Deployment
from models_registry.models import Revision


class LoadTest(Identified, OfOrganization, HasStatus, Leased):
    """A ramp of clients against one deployment, through the gateway, and what was measured.

    Names are kept beside the rows they name: a result is worth what it was measured on.
    """

    TRANSITIONS = LOAD_TEST_TRANSITIONS

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="load_tests")
    deployment_name = models.CharField(max_length=200)
    revision = models.ForeignKey(
        Revision, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    revision_name = models.CharField(max_length=300)
    engine = models.CharField(max_length=40)
    replicas = models.PositiveSmallIntegerField(default=0)  # ready when the first level began
    # {"<accelerator type>": accelerators held by the ready replicas}
    accelerators = models.JSONField(default=dict, blank=True)
    # what is asked
    clients = models.JSONField(default=list)  # levels, rising: [1, 2, 4, 8]
    seconds_per_level = models.PositiveSmallIntegerField(default=15)
    prompt_words = models.PositiveIntegerField(default=64)
    output_tokens = models.PositiveIntegerField(default=64)
    limit_ttft_milliseconds = models.PositiveIntegerField(null=True, blank=True)
    limit_itl_milliseconds = models.PositiveIntegerField(null=True, blank=True)
    # what is
    status = models.CharField(max_length=16, choices=LoadTestStatus, default=LoadTestStatus.PENDING)
    # one object a level: the fields of engines.load_client.LoadResult and "within_limits"
    results = models.JSONField(default=list, blank=True)
    largest_clients = models.PositiveIntegerField(
        null=True, blank=True, help_text="The largest level within the limits."
    )
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=LoadTestStatus.values), name="load_test_status_known"
            ),
        ]
        indexes = [models.Index(fields=["deployment", "-created_at"])]

    def __str__(self) -> str:
        return f"load test of {self.deployment_name}"
