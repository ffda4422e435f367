"""Evaluations that a rollout waits for are begun, followed and ended along one row."""

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from accounts.tests.make import NOW
from models_registry import gates
from models_registry.choices import TrialStatus
from models_registry.models import Trial
from models_registry.rules import Rule
from models_registry.tests.make import make_revision
from training import proving
from training.choices import EvaluationStatus
from training.models import Evaluation
from training.services.gates import complete_rule
from training.tests.make import make_version
from training.tests.test_evaluations import Platform, platform, run

pytestmark = pytest.mark.django_db
__all__ = ["platform"]  # the fixture
T = TrialStatus
ORDER = {"kind": "regex", "pattern": r'"order": "\d+"'}
INTENT = {"kind": "regex", "pattern": "tracking"}


def make_trial(tmp_path: Path, **more: object) -> Trial:
    version = make_version()
    organization = version.dataset.organization
    conditions = [
        {"metric": "exact_match", "at_least": 0.9, "worse_by_at_most": 0.0},
        {"measure": ORDER, "at_least": 0.9},
        {"measure": INTENT, "at_least": 0.9},
    ]
    rule = complete_rule(
        organization,
        {"dataset_version": str(version.pk), "split": "heldout", "conditions": conditions},
    )
    return Trial.objects.create(
        **{
            "organization": organization,
            "asked_by": uuid4(),
            "asked_name": "support, rollout 3",
            "rule": rule.as_json(),
            "revision": make_revision(tmp_path, organization),
            "model_name": "tuned",
            "holder_name": "base",
            "created_at": NOW,
            "status_changed_at": NOW,
        }
        | more
    )


def step(trial: Trial) -> Trial:
    proving.step_trials(now=NOW)
    trial.refresh_from_db()
    return trial


@pytest.fixture
def evaluation(tmp_path: Path, platform: Platform) -> Evaluation:
    step(make_trial(tmp_path))
    return Evaluation.objects.get()


def test_what_is_asked_for_is_measured_and_then_decides(
    evaluation: Evaluation, platform: Platform, tmp_path: Path
) -> None:
    trial = Trial.objects.get()
    assert (trial.status, trial.evaluation_id) == (T.RUNNING, evaluation.pk)
    assert evaluation.model_names == ["base", "tuned"]
    assert evaluation.metrics == [
        {"kind": "exact_match"}, ORDER, {**INTENT, "name": "regex_2"},
    ]  # fmt: skip
    holder = make_revision(tmp_path, evaluation.organization, seed=1)
    platform.revisions = {"tuned": str(trial.revision_id), "base": str(holder.pk)}
    run(evaluation)
    assert step(trial).status == T.FINISHED
    seen = gates.judge(
        Rule.read(trial.rule),
        organization=trial.organization,
        revision=trial.revision,
        holder=holder,
        now=NOW,
    )
    assert (seen.is_passed, seen.reasons) == (True, ())
    back = gates.judge(
        Rule.read(trial.rule),
        organization=trial.organization,
        revision=holder,
        holder=trial.revision,
        now=NOW,
    )
    assert back.is_passed is False


def test_an_evaluation_that_fails_is_told_with_its_reason(
    evaluation: Evaluation, platform: Platform
) -> None:
    evaluation.transition(EvaluationStatus.RUNNING, now=NOW)
    evaluation.transition(EvaluationStatus.FAILED, now=NOW, reason="no_answers", message="Nothing.")
    trial = step(Trial.objects.get())
    assert (trial.status, trial.message) == (T.FAILED, "Nothing.")


def test_one_that_cannot_be_begun_fails_at_once(tmp_path: Path) -> None:
    trial = step(make_trial(tmp_path, model_name="base"))
    assert (trial.status, trial.evaluation_id) == (T.FAILED, None)
    assert "different models" in trial.message


def test_needed_no_more_its_evaluation_is_cancelled(evaluation: Evaluation) -> None:
    Trial.objects.update(cancel_requested_at=NOW + timedelta(seconds=1))
    assert step(Trial.objects.get()).status == T.CANCELLED
    evaluation.refresh_from_db()
    assert evaluation.cancel_requested_at is not None
    assert run(evaluation).status == EvaluationStatus.CANCELLED
