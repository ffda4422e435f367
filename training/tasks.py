"""Training's tasks on the control queue. The agent's own are in `agent/tasks.py`."""

import logging
from uuid import UUID

from celery import shared_task
from django.db.models import Q
from django.utils import timezone

from common import jobs, leases, locks, slots
from training import evaluate, placing, proving
from training.choices import EVALUATION_OVER, HOLDING
from training.models import Evaluation, TrainingRun
from training.services import counting, dataset_versions

logger = logging.getLogger(__name__)

PLACED_A_SWEEP = 50  # of the oldest, and as many of the others by chance
STEP_EXPIRES_SECONDS = 10.0


@shared_task(name="training.sweep")
def sweep(**_: object) -> None:
    """Visit unsettled rows: place what is pending, have the nodes step what they hold. One that
    cannot be dealt with does not keep the others."""
    with locks.only_one("training.sweep") as mine:
        if not mine:
            return
        _sweep_runs()
        proving.step_trials(now=timezone.now())
        _sweep_evaluations()
        _sweep_versions()


@shared_task(name="training.place_run", throws=(leases.LeaseLost,))
def place_run(*, run_id: str, **_: object) -> None:
    placing.place_run(UUID(run_id), now=timezone.now())


@shared_task(name="training.evaluate_step", throws=(leases.LeaseLost,))
def evaluate_step(*, evaluation_id: str, **_: object) -> None:
    with slots.slow() as mine:
        moved = mine and evaluate.step_evaluation(UUID(evaluation_id), now=timezone.now())
    if moved:
        jobs.enqueue("training.evaluate_step", evaluation_id=evaluation_id)


@shared_task(name="training.check_version", throws=(leases.LeaseLost,))
def check_version(*, version_id: str, **_: object) -> None:
    with slots.slow() as mine:
        if mine:
            dataset_versions.check_version(UUID(version_id), now=timezone.now())


@shared_task(name="training.count_tokens", throws=(leases.LeaseLost,))
def count_tokens(*, count_id: str, **_: object) -> None:
    with slots.slow() as mine:
        if mine:
            counting.step_count(UUID(count_id), now=timezone.now())


def _sweep_runs() -> None:
    lost = TrainingRun.objects.filter(placing.on_lost_node(), status__in=HOLDING)
    for run_id in list(lost.values_list("pk", flat=True)):
        try:
            placing.leave_lost_node(run_id, now=timezone.now())
        except Exception:
            logger.exception("run %s could not be taken off its lost node", run_id)
    for run_id in _waiting():
        try:
            placing.place_run(run_id, now=timezone.now())
        except Exception:
            logger.exception("run %s could not be placed", run_id)
    held = TrainingRun.objects.filter(status__in=HOLDING, node__isnull=False)
    for run in held.select_related("node"):
        if run.node is not None:
            jobs.enqueue(
                "agent.step_run",
                queue=run.node.queue,
                expires_seconds=STEP_EXPIRES_SECONDS,
                run_id=str(run.pk),
            )


def _waiting() -> list[UUID]:
    """The oldest pending runs first; some of the others, so that old ones which fit nowhere do not
    keep all the rest waiting."""
    pending = TrainingRun.objects.filter(placing.to_place())
    oldest = list(pending.order_by("created_at").values_list("pk", flat=True)[:PLACED_A_SWEEP])
    others = pending.exclude(pk__in=oldest).order_by("?")
    return oldest + list(others.values_list("pk", flat=True)[:PLACED_A_SWEEP])


def _sweep_evaluations() -> None:
    now = timezone.now()
    free = Q(leased_until__isnull=True) | Q(leased_until__lt=now)
    due = Evaluation.objects.filter(free).exclude(status__in=EVALUATION_OVER)
    for evaluation_id in due.values_list("pk", flat=True):
        jobs.enqueue(
            "training.evaluate_step",
            expires_seconds=STEP_EXPIRES_SECONDS,
            evaluation_id=str(evaluation_id),
        )


def _sweep_versions() -> None:
    for version_id in dataset_versions.list_due(now=timezone.now()):
        jobs.enqueue(
            "training.check_version",
            expires_seconds=STEP_EXPIRES_SECONDS,
            version_id=str(version_id),
        )
    for count_id in counting.list_due(now=timezone.now()):
        jobs.enqueue(
            "training.count_tokens",
            expires_seconds=STEP_EXPIRES_SECONDS,
            count_id=str(count_id),
        )
