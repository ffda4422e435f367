"""What is written of a run when something happens to it, by whoever reconciles it."""

from datetime import datetime

from chips import selectors as chips_selectors
from chips import services as chips
from common.errors import DomainError
from trainer.errors import TrainingFailure
from trainer.progress import Kind
from training.choices import EventLevel, RunStatus
from training.models import Checkpoint, TrainingEvent, TrainingRun
from training.progress import Ending

STOP_SECONDS = 30.0  # from SIGTERM to SIGKILL: a trainer saves a checkpoint in between
MAX_FAILURES = 4  # trainers that died one after another without a new checkpoint

# What a step of the reconciler may have changed, beside the status.
OBSERVED = (
    "attempt",
    "failures",
    "next_attempt_at",
    "progress_offset",
    "told_at",
    "patience_seconds",
    "micro_batch_splits",
    "step",
    "total_steps",
    "train_loss",
    "eval_loss",
    "best_step",
    "best_value",
    "stopped_early",
    "result_step",
    "memory_estimate_bytes",
    "peak_memory_bytes",
    "tokens_total",
    "tokens_per_second",
    "seconds_left",
    "log_tail",
    "node",
    "allocation",
    "result_revision",
    "started_at",
    "ended_at",
    "status_reason",
    "message",
)


def tell(
    run: TrainingRun,
    kind: str,
    message: str,
    *,
    now: datetime,
    level: EventLevel = EventLevel.INFO,
    **data: object,
) -> None:
    """An event on the run's page."""
    TrainingEvent.objects.create(
        run=run, at=now, kind=kind, level=level, message=message, data=data
    )


def release(run: TrainingRun, *, reason: str, now: datetime) -> None:
    """Give the run's accelerators back, if it holds any."""
    live = chips_selectors.get_live_allocation(run.pk)
    if live is not None:
        chips.release(allocation_id=live.pk, reason=reason, now=now)


def fail(run: TrainingRun, ending: Ending, *, now: datetime) -> None:
    """The end, with what went wrong and what to do about it."""
    message = " ".join(part for part in (ending.message, ending.remedy) if part)
    reason = ending.reason or "trainer_exited"
    release(run, reason="failed", now=now)
    end(run, RunStatus.FAILED, reason[:64], message, now=now)
    level = EventLevel.ERROR
    tell(run, "gave_up", message, level=level, reason=reason, failures=run.failures, now=now)


def end(
    run: TrainingRun, status: RunStatus, reason: str, message: str = "", *, now: datetime
) -> None:
    """The last status. Its checkpoints go: the node removes the folder of a run that is over."""
    run.ended_at = now
    run.seconds_left = None
    run.save(update_fields=OBSERVED)
    run.transition(status, now=now, reason=reason, message=message)
    Checkpoint.objects.filter(run=run, pruned_at=None).update(pruned_at=now)


def as_ending(error: Exception) -> Ending:
    """What went wrong on the node itself, as a trainer would have put it."""
    if isinstance(error, TrainingFailure):
        return Ending(Kind.FAILED, error.reason, error.message, error.remedy)
    if isinstance(error, DomainError):
        return Ending("", error.code, error.message, error.remedy)
    return Ending("", "node_error", f"The node could not do it: {error}.")
