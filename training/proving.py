"""Evaluations that rollouts wait for: begun, followed and ended along the row of a `Trial`."""

import logging
import re
from datetime import datetime
from uuid import UUID

from django.db import transaction

from common.errors import DomainError
from models_registry.choices import TRIAL_OVER, TrialStatus
from models_registry.models import Trial
from models_registry.rules import Condition, Rule
from training.choices import EVALUATION_OVER, EvaluationStatus
from training.metrics import reading
from training.models import Evaluation
from training.services import evaluations

logger = logging.getLogger(__name__)
T = TrialStatus
NAME_CHARACTERS = 96
DEFAULT_MAX_TOKENS = 256


def step_trials(*, now: datetime) -> None:
    """Visit every trial that is not over; one that cannot be dealt with does not keep the others."""
    for trial_id in Trial.objects.exclude(status__in=TRIAL_OVER).values_list("pk", flat=True):
        try:
            step_trial(trial_id, now=now)
        except Exception:
            logger.exception("trial %s could not be looked at", trial_id)


@transaction.atomic
def step_trial(trial_id: UUID, *, now: datetime) -> None:
    """Begin it, or write down what has become of its evaluation."""
    rows = Trial.objects.select_for_update(no_key=True, of=("self",), skip_locked=True)
    trial = rows.exclude(status__in=TRIAL_OVER).filter(pk=trial_id).first()
    if trial is None:
        return
    if trial.cancel_requested_at is not None:
        _cancel(trial, now=now)
    elif trial.status == T.WANTED:
        _begin(trial, now=now)
    else:
        _follow(trial, now=now)


def _begin(trial: Trial, *, now: datetime) -> None:
    rule = Rule.read(trial.rule)
    try:
        with transaction.atomic():
            evaluation = evaluations.create_evaluation(
                organization=trial.organization,
                name=_name(trial),
                dataset_version_id=rule.dataset_version_id,
                split=rule.split,
                model_names=[name for name in (trial.holder_name, trial.model_name) if name],
                max_tokens=rule.max_tokens or DEFAULT_MAX_TOKENS,
                metrics=metrics_of(rule.conditions),
                now=now,
            )
    except DomainError as error:
        message = f"{error.message} {error.remedy}".strip()
        trial.transition(T.FAILED, now=now, reason=error.code, message=message)
        return
    trial.evaluation_id = evaluation.pk
    trial.save(update_fields=["evaluation_id"])
    trial.transition(T.RUNNING, now=now, reason="began", message=_progress(evaluation))


def _name(trial: Trial) -> str:
    """As evaluations may be called: no white space."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"gate-of-{trial.asked_name}")[:NAME_CHARACTERS].rstrip(
        "-"
    )


def metrics_of(conditions: tuple[Condition, ...]) -> list[dict[str, object]]:
    """What to measure so that each condition can be answered, every metric once, under names of
    its own where two are of a kind. What no evaluation of answers measures is left out."""
    found: list[dict[str, object]] = []
    for each in conditions:
        asked = dict(each.measure or {})
        if asked and asked not in found:
            found.append(asked)
    kinds = [asked["kind"] for asked in found]
    for index, asked in enumerate(found):
        if kinds.index(asked["kind"]) != index:
            asked["name"] = f"{asked['kind']}_{index}"
    return reading.write(reading.read(found))


def _follow(trial: Trial, *, now: datetime) -> None:
    rows = Evaluation.objects.filter(pk=trial.evaluation_id) if trial.evaluation_id else None
    evaluation = rows.first() if rows is not None else None
    if evaluation is None:
        trial.transition(T.FAILED, now=now, reason="deleted", message="It was deleted.")
    elif evaluation.status == EvaluationStatus.SUCCEEDED:
        trial.transition(T.FINISHED, now=now, reason="evaluated")
    elif evaluation.status in EVALUATION_OVER:
        message = evaluation.message or str(evaluation.get_status_display())
        trial.transition(T.FAILED, now=now, reason=evaluation.status_reason, message=message)
    elif trial.message != (message := _progress(evaluation)):
        trial.message = message
        trial.save(update_fields=["message"])


def _progress(evaluation: Evaluation) -> str:
    asked = evaluation.examples_total * len(evaluation.model_names)
    said = f"{evaluation.answers_done} of {asked} answers"
    if evaluation.judgements_total:
        said += f", {evaluation.judgements_done} of {evaluation.judgements_total} judgements"
    return f"{said}. {evaluation.message}".strip()


def _cancel(trial: Trial, *, now: datetime) -> None:
    if trial.evaluation_id is not None:
        try:
            evaluations.cancel_evaluation(
                organization=trial.organization, evaluation_id=trial.evaluation_id, now=now
            )
        except DomainError:
            logger.info("the evaluation of %s is over already", trial)
    trial.transition(T.CANCELLED, now=now, reason="not_needed")
