from django.db import models

from accounts.models import OfOrganization
from common.leases import Leased
from common.models import Identified
from common.statuses import HasStatus
from models_registry.models import Revision
from training.choices import EVALUATION_TRANSITIONS, EvaluationStatus
from training.models.dataset import DatasetSplit


class Evaluation(Identified, OfOrganization, HasStatus, Leased):
    """Served models side by side on one split: same prompts, same settings, scored alike.

    A split of a benchmark task is asked by lm-eval, which scores the answers too.
    """

    TRANSITIONS = EVALUATION_TRANSITIONS

    name = models.CharField(max_length=96)
    split = models.ForeignKey(DatasetSplit, on_delete=models.PROTECT, related_name="evaluations")
    # public model names as the gateway serves them; the first is the baseline
    model_names = models.JSONField(default=list)
    # {"<model name>": "<revision id>"} as served when the evaluation began
    revision_ids = models.JSONField(default=dict, blank=True)
    # [{"kind": "rouge"}, ...] as training/metrics/reading.py has them
    metrics = models.JSONField(default=list, blank=True)
    # of a benchmark task alone: {"num_fewshot": 5, "as_chat": true}
    settings = models.JSONField(default=dict, blank=True)
    limit = models.PositiveIntegerField(null=True, blank=True)
    max_tokens = models.PositiveIntegerField(default=128)
    status = models.CharField(
        max_length=16, choices=EvaluationStatus, default=EvaluationStatus.PENDING
    )
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    examples_total = models.PositiveIntegerField(default=0)
    answers_done = models.PositiveIntegerField(default=0)
    # {"<model name>": {"exact_match": 0.93, "valid_json": 1.0, "fields": {"intent": 0.99}, ...}}
    results = models.JSONField(default=dict, blank=True)
    # each other model against the first: {"<model name>": {"<metric>": {"difference": 0.02, "low": ...}}}
    comparisons = models.JSONField(default=dict, blank=True)
    judgements_total = models.PositiveIntegerField(default=0)
    judgements_done = models.PositiveIntegerField(default=0)
    # {"loss of tuned": "why there is none"}: what could not be measured
    problems = models.JSONField(default=dict, blank=True)
    waiting_since = models.DateTimeField(
        null=True, blank=True, help_text="Since when no model could answer."
    )
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name


class EvaluationAnswer(Identified):
    """What one model answered to one line, and how it was scored."""

    evaluation = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="answers")
    model_name = models.CharField(max_length=200)
    revision = models.ForeignKey(
        Revision, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    line = models.PositiveIntegerField()
    prompt = models.TextField()
    expected = models.TextField()
    answer = models.TextField(blank=True, default="")
    is_exact = models.BooleanField(default=False)
    fields = models.JSONField(default=dict, blank=True)  # {"intent": true, "city": false}
    scores = models.JSONField(default=dict, blank=True)  # {"exact_match": 1.0, "rouge_l": 0.41}
    # {"nats": 12.5, "tokens": 9, "bytes": 31}: how likely the model finds the expected answers
    likelihood = models.JSONField(default=dict, blank=True)
    notes = models.JSONField(default=dict, blank=True)  # {"judge": "Polite, but ..."}
    error = models.TextField(blank=True, default="")
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["evaluation", "line", "model_name"]
        constraints = [
            models.UniqueConstraint(
                fields=["evaluation", "model_name", "line"], name="evaluation_answer_once"
            ),
        ]
        indexes = [
            models.Index(
                fields=["evaluation", "line", "model_name"], name="evaluation_answer_by_line"
            )
        ]

    def __str__(self) -> str:
        return f"{self.model_name} line {self.line}"
