"""Carrying out an evaluation on a benchmark task: model after model, each by lm-eval."""

import logging
from datetime import datetime

from common import leases
from common.errors import DomainError
from models_registry.models import Revision
from training import results, scratch
from training.benchmarks import running
from training.choices import EvaluationStatus
from training.models import Evaluation

logger = logging.getLogger(__name__)

E = EvaluationStatus


def is_benchmark(evaluation: Evaluation) -> bool:
    return evaluation.split.version.kind == "lm_task"


def step(evaluation: Evaluation, *, now: datetime) -> bool:
    """One model's whole benchmark, under the caller's lease, which is kept up meanwhile; true if
    another step should follow at once. A worker lost on the way loses what its node remembers."""
    name = next((each for each in evaluation.model_names if not _is_done(evaluation, each)), None)
    if name is None:
        _conclude(evaluation, now=now)
        return False
    with running.turn() as mine:
        if not mine:
            leases.release(evaluation)
            return False
        return _ask(evaluation, name, now=now)


def _ask(evaluation: Evaluation, name: str, *, now: datetime) -> bool:
    revision, wait = running.find_revision(evaluation, name, now=now)
    if wait is not None:
        return _note_wait(evaluation, f"{name}: {wait.message}", wait.status, now=now)
    try:
        found = running.run_model(evaluation, name, revision, now=now)
    except running.Cancelled:
        leases.release(evaluation)
        return True  # the next step ends it
    except DomainError as error:
        message = f"{name}: {error.message} {error.remedy}".strip()
        _fail(evaluation, error.code, message, now=now)
        return False
    running.keep_samples(evaluation, name, revision, found)
    with leases.finish(evaluation) as current:
        done = len(found["samples"])
        current.results[name] = {
            "examples": done,
            "metrics": found["metrics"],
            "stderr": found["stderr"],
            "errors": 0,
            "completion_tokens": found["completion_tokens"],
        }
        if revision is not None:
            current.revision_ids[name] = str(revision.pk)
        current.answers_done = sum(each["examples"] for each in current.results.values())
        current.status_reason = current.message = ""
        current.waiting_since = None
        current.save(
            update_fields=[
                "results",
                "revision_ids",
                "answers_done",
                "status_reason",
                "message",
                "waiting_since",
            ]
        )
    return True


def _is_done(evaluation: Evaluation, name: str) -> bool:
    return "metrics" in evaluation.results.get(name, {})


def _note_wait(evaluation: Evaluation, message: str, status: int, *, now: datetime) -> bool:
    """False: come back later; or never, where it was waited for long enough."""
    missing = status == 404
    limit = running.MOST_WAIT_SECONDS["route_seconds" if missing else "model_seconds"]
    reason = "model_not_found" if missing else "model_not_ready"
    since = evaluation.waiting_since or now
    if (now - since).total_seconds() > limit:
        _fail(evaluation, reason, message, now=now)
        return False
    with leases.finish(evaluation) as current:
        current.waiting_since, current.status_reason, current.message = since, reason, message
        current.save(update_fields=["waiting_since", "status_reason", "message"])
    return False


def _conclude(evaluation: Evaluation, *, now: datetime) -> None:
    found = results.compare(evaluation)
    with leases.finish(evaluation) as current:
        current.comparisons = results.against_baseline(current, found)
        there = Revision.objects.filter(pk__in=current.revision_ids.values())
        known = {str(pk): pk for pk in there.values_list("pk", flat=True)}
        by_name = {
            name: known[text] for name, text in current.revision_ids.items() if text in known
        }
        current.ended_at = now
        current.save(update_fields=["comparisons", "ended_at"])
        results.keep(current, by_name, found, now=now)
        current.transition(E.SUCCEEDED, now=now, reason="answered")
    scratch.clear(evaluation)


def _fail(evaluation: Evaluation, reason: str, message: str, *, now: datetime) -> None:
    with leases.finish(evaluation) as current:
        current.ended_at = now
        current.save(update_fields=["ended_at"])
        current.transition(E.FAILED, now=now, reason=reason, message=message)
    scratch.clear(evaluation)
