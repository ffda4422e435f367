from django.db import models

from accounts.models import Organization, TenantQuerySet
from common.models import Identified
from models_registry.models.revision import Revision


class EvaluationResult(Identified):
    """How a revision did on a dataset split; names are kept with the figures.

    It belongs to the organization that asked, whose dataset it names: a shared revision has results
    of many, and each sees its own alone.
    """

    organization = models.ForeignKey(
        Organization,
        null=True,  # a result from before they had one: nobody's
        on_delete=models.PROTECT,
        related_name="+",
    )
    revision = models.ForeignKey(
        Revision, on_delete=models.CASCADE, related_name="evaluation_results"
    )
    evaluation_id = models.UUIDField(db_index=True)
    dataset_version_id = models.UUIDField(
        null=True, blank=True
    )  # of a floor above; None: an older row
    dataset_name = models.CharField(max_length=200)
    split = models.CharField(max_length=40)
    examples = models.PositiveIntegerField()
    metrics = models.JSONField(default=dict)  # {"exact_match": 0.93, "field.intent": 0.99, ...}
    # {"regex": {"key": "regex#1f0c9a3b57", "label": ..., "metric": {...}, ...}}: how each number
    # was measured, where its name alone does not say it
    measures = models.JSONField(default=dict, blank=True)
    # {"<other revision>": {"<metric>": {"difference", "low", "high", ...}}}: this one minus the other
    comparisons = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField()

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["revision", "evaluation_id", "split"], name="evaluation_result_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.revision} on {self.dataset_name}/{self.split}"

    def key_of(self, name: str) -> str:
        """The key of the measure behind a name in `metrics`; the name itself where none is kept."""
        return str(self.measures.get(name, {}).get("key", name))

    def name_of(self, key: str) -> str | None:
        """Under which name a measure stands in `metrics`, None if it was not measured."""
        return next((name for name in self.metrics if self.key_of(name) == key), None)
