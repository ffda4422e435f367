"""What comes of an evaluation's answers: means by model, and who is better than whom."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from django.db import connection
from django.db.models import Count, Max, Q, Sum

from models_registry.models import EvaluationResult
from training import likelihood, scoring
from training.metrics import measures, paired, reading
from training.metrics.judge import Judge
from training.metrics.paired import Comparison, Scores
from training.models import Evaluation, EvaluationAnswer

MOST_UNJUDGED = 0.05  # of the answers; beyond it no gate goes by what the judge said
Figures = dict[str, dict[str, Comparison]]  # by model, by metric


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """By model, over what is answered so far. An answer that never came counts as wrong."""
    rows = EvaluationAnswer.objects.filter(evaluation=evaluation).order_by()
    counted = rows.values("model_name").annotate(
        examples=Count("pk"),
        errors=Count("pk", filter=~Q(error="")),
        completion_tokens=Sum("completion_tokens"),
    )
    counts = {row["model_name"]: row for row in counted}
    means = _means(evaluation)
    likely = likelihood.figures(evaluation)
    results = {}
    for name in evaluation.model_names:
        row = counts.get(name, {"examples": 0, "errors": 0, "completion_tokens": 0})
        figures = means.get(name, {}) | likely.get(name, {})
        results[name] = scoring.summary(row["examples"], figures) | {
            "errors": row["errors"],
            "completion_tokens": row["completion_tokens"],
        }
    return results


def _means(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """In the database: a hundred thousand rows of scores are not worth carrying here each time."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT answer.model_name, each.key, avg(each.value::float8)"
            " FROM training_evaluationanswer answer, jsonb_each_text(answer.scores) each"
            " WHERE answer.evaluation_id = %s GROUP BY 1, 2 ORDER BY 1, 2",
            [evaluation.pk],
        )
        found: dict[str, dict[str, float]] = {}
        for model_name, metric, mean in cursor.fetchall():
            found.setdefault(model_name, {})[metric] = float(mean)
    return found


def compare(evaluation: Evaluation) -> dict[str, Figures]:
    """Every model with every other, metric by metric: {baseline: {candidate: {metric: ...}}}."""
    names = list(evaluation.model_names)
    if len(names) < 2:
        return {}
    scores = _score_rows(evaluation)
    measured = measures.find(evaluation.metrics, scores)
    found: dict[str, Figures] = {name: {} for name in names}
    for first, second in itertools.combinations(names, 2):
        for metric, rows in scores.items():
            if first not in rows or second not in rows:
                continue
            is_lower = measured[metric].lower_is_better
            seen = paired.compare(rows[first], rows[second], lower_is_better=is_lower)
            if seen is not None:
                found[first].setdefault(second, {})[metric] = seen
                found[second].setdefault(first, {})[metric] = _turned(seen)
    return found


def _score_rows(evaluation: Evaluation) -> dict[str, dict[str, Scores]]:
    """By metric and model, one number a line, NaN where there is none."""
    answers = EvaluationAnswer.objects.filter(evaluation=evaluation).order_by()
    size = (answers.aggregate(last=Max("line"))["last"] or 0) + 1
    rows: dict[str, dict[str, Scores]] = {}
    values = answers.values_list("model_name", "line", "scores")
    for model_name, line, scores in values.iterator(chunk_size=5000):
        for metric, value in scores.items():
            row = rows.setdefault(metric, {})
            if model_name not in row:
                row[model_name] = np.full(size, np.nan)
            row[model_name][line] = value
    likelihood.weigh(evaluation, rows)
    return rows


def _turned(seen: Comparison) -> Comparison:
    opposite = {"better": "worse", "worse": "better"}
    return replace(
        seen,
        difference=-seen.difference,
        low=-seen.high,
        high=-seen.low,
        verdict=opposite.get(seen.verdict, seen.verdict),
        wins=seen.losses,
        losses=seen.wins,
    )


def against_baseline(evaluation: Evaluation, found: Mapping[str, Figures]) -> dict[str, Any]:
    """As the evaluation keeps it: {candidate: {metric: {"difference", "low", "high", ...}}}."""
    return _as_json(found.get(evaluation.model_names[0], {}))


def keep(
    evaluation: Evaluation,
    revisions: Mapping[str, UUID],
    found: Mapping[str, Figures],
    *,
    now: datetime,
) -> None:
    """Attach each model's figures to the revision that answered, with the intervals of its lead on
    the other revisions: gates read them."""
    untrusted = hardly_judged(evaluation)
    for name, revision_id in revisions.items():
        result = evaluation.results[name]
        measured = measures.find(evaluation.metrics, result["metrics"])
        leads = {
            str(other_id): {metric: seen.as_json() for metric, seen in found[other][name].items()}
            for other, other_id in revisions.items()
            if other_id != revision_id and name in found.get(other, {})
        }
        EvaluationResult.objects.update_or_create(
            revision_id=revision_id,
            evaluation_id=evaluation.pk,
            split=evaluation.split.name,
            defaults={
                "organization": evaluation.organization,
                "dataset_name": str(evaluation.split.version),
                "dataset_version_id": evaluation.split.version_id,
                "examples": result["examples"],
                "metrics": {
                    each: value
                    for each, value in result["metrics"].items()
                    if each not in untrusted.get(name, ())
                },
                "measures": {
                    each: what.as_json() for each, what in measured.items() if what.key != each
                },
                "comparisons": leads,
                "created_at": now,
            },
        )


def hardly_judged(evaluation: Evaluation) -> dict[str, set[str]]:
    """By model, the judges whose mean says little: too many answers have no verdict of theirs."""
    return {
        name: {
            judge
            for judge, count in result.get("unjudged", {}).items()
            if count > MOST_UNJUDGED * result["examples"]
        }
        for name, result in evaluation.results.items()
    }


def judges(evaluation: Evaluation) -> list[Judge]:
    return [each for each in reading.read(evaluation.metrics) if isinstance(each, Judge)]


def _as_json(figures: Figures) -> dict[str, Any]:
    return {
        name: {metric: seen.as_json() for metric, seen in by_metric.items()}
        for name, by_metric in figures.items()
    }
