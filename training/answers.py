"""Which answers of an evaluation are worth a look: lines where a candidate is wrong, or differs."""

from dataclasses import dataclass
from typing import Any

from django.db.models import F, FloatField, OuterRef, QuerySet, Subquery
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast

from common.errors import InvalidInput
from training.models import Evaluation, EvaluationAnswer

SHOWN = ("all", "differ", "wrong", "lost", "won")
DIFFERENT = 1e-9


@dataclass(frozen=True)
class Filter:
    """`candidate` defaults to the last model; it is held against the first, by `metric`."""

    show: str = "all"
    candidate: str = ""
    metric: str = "exact_match"

    @property
    def narrows(self) -> bool:
        return self.show != "all"

    def of(self, evaluation: Evaluation) -> QuerySet[EvaluationAnswer]:
        """The candidate's answers that fit, by line, with `score` and, where there is another model,
        `other`: what the baseline scored. Raises InvalidInput.

        Found along the index (evaluation, model, line): a page costs what lies before its end.
        """
        names = evaluation.model_names
        candidate = self.candidate or names[-1]
        if candidate not in names:
            raise InvalidInput("The evaluation asked no such model.", field="candidate")
        if self.show not in SHOWN:
            raise InvalidInput(
                "There is no such choice.", field="show", remedy=f"Use one of {', '.join(SHOWN)}."
            )
        score = Cast(KeyTextTransform(self.metric, "scores"), FloatField())
        rows = EvaluationAnswer.objects.filter(evaluation=evaluation, model_name=candidate)
        rows = rows.annotate(score=score).order_by("line")
        if candidate != names[0]:
            beside = EvaluationAnswer.objects.filter(
                evaluation=evaluation, model_name=names[0], line=OuterRef("line")
            )
            rows = rows.annotate(other=Subquery(beside.annotate(s=score).values("s")[:1]))
        return self._narrowed(rows, is_baseline=candidate == names[0])

    def _narrowed(
        self,
        rows: QuerySet[Any],  # annotated, which the stubs cannot see
        *,
        is_baseline: bool,
    ) -> QuerySet[EvaluationAnswer]:
        if self.show == "all":
            return rows
        if self.show == "wrong":
            return rows.filter(score__lt=1)
        if is_baseline:  # it neither differs from itself nor wins
            return rows.none()
        if self.show == "differ":
            return rows.exclude(score=F("other"))
        if self.show == "won":
            return rows.filter(score__gt=F("other") + DIFFERENT)
        return rows.filter(score__lt=F("other") - DIFFERENT)
