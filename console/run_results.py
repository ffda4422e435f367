"""What evaluations say of the models that runs made, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from accounts.models import Organization
from console import intervals
from models_registry.models import EvaluationResult
from training.models import Evaluation, TrainingRun

MOST_RESULTS = 20  # of one model, the newest


@dataclass(frozen=True)
class Cell:
    """One model's figure; without an evaluation, a dash."""

    text: str = "–"
    evaluation_id: UUID | None = None


@dataclass(frozen=True)
class Row:
    """One measure on one split."""

    questions: str
    label: str
    cells: list[Cell]


def table(organization: Organization, runs: Sequence[TrainingRun]) -> list[Row]:
    """Of each run's result what was measured last; only what this organization asked."""
    newest: dict[tuple[str, str], dict[UUID, tuple[EvaluationResult, float]]] = {}
    for run in runs:
        if run.result_revision_id is None:
            continue
        rows = EvaluationResult.objects.of(organization).filter(revision=run.result_revision_id)
        for result in rows.order_by("-created_at")[:MOST_RESULTS]:
            questions = f"{result.dataset_name} / {result.split}"
            for metric, value in result.metrics.items():
                found = newest.setdefault((questions, metric), {})
                found.setdefault(run.pk, (result, value))
    asked = {result.evaluation_id for found in newest.values() for result, _ in found.values()}
    evaluations = {row.pk: row for row in Evaluation.objects.of(organization).filter(pk__in=asked)}
    return [
        Row(
            questions,
            intervals.label_of(metric),
            [_cell(found.get(run.pk), metric, evaluations) for run in runs],
        )
        for (questions, metric), found in sorted(newest.items())
    ]


def _cell(
    found: tuple[EvaluationResult, float] | None,
    metric: str,
    evaluations: dict[UUID, Evaluation],
) -> Cell:
    if found is None:
        return Cell()
    result, value = found
    evaluation = evaluations.get(result.evaluation_id)
    unit = "share" if 0 <= value <= 1 else "rating"
    if evaluation is not None and unit == "share":
        unit = intervals.unit_of(evaluation, metric)
    return Cell(intervals.amount(value, unit), None if evaluation is None else evaluation.pk)
