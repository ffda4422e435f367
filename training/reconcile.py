"""Bringing training runs on a node from what is wanted to what is.

`step_run` is the agent's, on the node that holds the run's accelerators: one look at the trainer,
at most one act, one write. It may run late, twice, or be killed at any point; the next one goes on
from what is written and what is seen. Finding accelerators is control's: see `placing`.
"""

import logging
import signal
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings

from chips import selectors as chips_selectors
from common import leases
from common.errors import DomainError
from models_registry import cache, storage
from trainer.errors import FailureReason, TrainingFailure
from trainer.host import Seen, Sighting, TrainerHost
from trainer.progress import Kind
from training import planning, progress, publishing
from training.choices import HOLDING, TERMINAL, EventLevel, RunStatus
from training.models import TrainingRun
from training.outcomes import (
    MAX_FAILURES,
    OBSERVED,
    STOP_SECONDS,
    as_ending,
    end,
    fail,
    release,
    tell,
)
from training.planning import RunFolders
from training.progress import Ending, News

logger = logging.getLogger(__name__)

S = RunStatus
LEASE_SECONDS = 15.0  # kept while a step works; what a killed agent's run waits for its next step
LOADING_SECONDS = 1800.0  # a trainer may be silent while it reads its model and tokenizes its data
# Trying again would end the same way.
HOPELESS = frozenset(
    {
        FailureReason.BAD_SPEC,
        FailureReason.BAD_DATA,
        FailureReason.UNSUPPORTED_MODEL,
        FailureReason.NAN_LOSS,
        FailureReason.OUT_OF_MEMORY,
    }
)
HUNG = "trainer_hung"


def next_status(
    *,
    status: str,
    wanted: bool,
    paused: bool = False,
    seen: Seen,
    ending: str | None = None,
    has_begun: bool = False,
    may_retry: bool = True,
    may_stay: bool = True,
) -> tuple[S, str]:
    """Pure: which status follows, and why; the same status and "" if there is nothing to do.

    `seen` is of the present attempt (an older one's exit counts as absent), `ending` its last word
    in the progress file. `paused` says that it is to rest; `may_stay` is false on a node that is
    being emptied.
    """
    if status == S.STOPPING:
        return _after_stopping(wanted, paused, seen, ending, may_stay=may_stay)
    if status not in (S.STARTING, S.RUNNING):
        return S(status), ""
    if not wanted:
        return S.STOPPING, "cancel_requested"
    if ending == Kind.FINISHED:
        return S.PUBLISHING, "trained"
    if paused:
        return S.STOPPING, "pause_requested"
    if seen is Seen.EXITED and ending == Kind.YIELDED:
        return (S.STARTING, "resumes") if may_stay else (S.PENDING, "yielded")
    if seen is Seen.EXITED:
        return (S.STARTING, "trainer_exited") if may_retry else (S.FAILED, "trainer_failed")
    if status == S.RUNNING and seen is Seen.ABSENT:
        return (S.STARTING, "trainer_lost") if may_retry else (S.FAILED, "trainer_failed")
    if status == S.STARTING and seen is Seen.RUNNING and has_begun:
        return S.RUNNING, "trainer_started"
    return S(status), ""


def _after_stopping(
    wanted: bool, paused: bool, seen: Seen, ending: str | None, *, may_stay: bool
) -> tuple[S, str]:
    if seen is Seen.RUNNING:
        return S.STOPPING, ""
    if not wanted:
        return S.CANCELLED, "cancelled"
    if ending == Kind.FINISHED:
        return S.PUBLISHING, "trained"
    if paused:
        return S.PAUSED, "paused"
    return (S.STARTING, "resumes") if may_stay else (S.PENDING, "yielded")  # wanted again


def break_leases(node_id: UUID) -> int:
    """Free the runs that a killed agent of this node was at work on: it alone steps them. Call it
    before an agent's first step, never while another of that node runs."""
    rows = TrainingRun.objects.filter(status__in=HOLDING, node=node_id, lease_token__isnull=False)
    return rows.update(lease_token=None, leased_until=None)


def step_run(run_id: UUID, *, host: TrainerHost, now: datetime) -> bool:
    """One step of a run held by the host's node; true if it moved, so that another may follow."""
    rows = TrainingRun.objects.filter(status__in=HOLDING, node__name=host.node_name)
    run = leases.take(rows, run_id, now=now, seconds=LEASE_SECONDS)
    if run is None:  # over, elsewhere, or someone else is at work on it
        return False
    with leases.kept(run, seconds=LEASE_SECONDS):
        sighting = host.observe(str(run.pk))
        if run.status == S.PUBLISHING:
            return publishing.step_publishing(run, host, sighting, now=now)
        if sighting.seen is Seen.RUNNING and (
            run.status == S.STOPPING or sighting.attempt != run.attempt
        ):
            _stop(run, host, sighting, now=now)
        elif run.status == S.STARTING and run.cancel_requested_at is run.pause_requested_at is None:
            due = run.next_attempt_at is None or run.next_attempt_at <= now
            if due and _seen(run, sighting) is Seen.ABSENT:
                return _start(run, host, now=now)
        return _look(run, host, sighting, now=now)


def sweep_node(*, host: TrainerHost, now: datetime) -> frozenset[str]:
    """Kill and remove what no run wants on this node any more: runs that are over, or elsewhere.

    The folder of a pending or paused run stays, for it may come back to its checkpoints; its
    trainer may not go on without accelerators. Answers with the names of what was removed.
    """
    here = TrainingRun.objects.filter(node__name=host.node_name).exclude(status__in=TERMINAL)

    def known(names: frozenset[str]) -> set[str]:
        ids = [name for name in names if _is_id(name)]
        return {str(pk) for pk in here.filter(pk__in=ids).values_list("pk", flat=True)}

    strays = host.sweep(known)
    for run in here.filter(status__in=(S.PENDING, S.PAUSED)):
        sighting = host.observe(str(run.pk))
        if sighting.seen is Seen.RUNNING:
            logger.warning("run %s is %s, its trainer on this node is stopped", run.pk, run.status)
            _stop(run, host, sighting, now=now)
    return strays


def _start(run: TrainingRun, host: TrainerHost, *, now: datetime) -> bool:
    """Fetch weights and data, then start the trainer. What goes wrong counts as its failure."""
    folders = RunFolders(host.folder(str(run.pk)))
    try:
        base = cache.materialize(run.base_revision, root=host.cache)
        start = None
        if run.init_revision is not None:
            start = cache.materialize(run.init_revision, root=host.cache)
        splits = {split.name: split.blob_id for split in run.dataset_version.splits.all()}
        for name, path in ((run.train_split, folders.train), (run.eval_split, folders.eval)):
            if name and not path.exists():
                storage.copy_blob(splits[name], path)
        allocation = run.allocation
        devices = chips_selectors.list_devices(allocation) if allocation is not None else []
        spec = planning.train_spec(run, base=base, folders=folders, devices=devices, start=start)
        host.start(spec, environment=planning.environment(devices))
    except (DomainError, TrainingFailure, OSError) as error:
        logger.warning("run %s cannot be started: %s", run.pk, error)
        ending = as_ending(error)
        with leases.finish(run) as current:
            if isinstance(error, planning.CannotTrainThere) or not _may_retry(current, ending):
                fail(current, ending, now=now)
            else:
                _restart(current, "start_failed", ending.message, now=now)
        return False
    with leases.finish(run) as current:
        current.told_at, current.patience_seconds = now, None
        current.save(update_fields=OBSERVED)
    return True


def _stop(run: TrainingRun, host: TrainerHost, sighting: Sighting, *, now: datetime) -> None:
    """SIGTERM, and SIGKILL past the deadline; at once for a trainer of an earlier attempt. One
    that rests only, and is wanted again, gets as long as its own pace asks for."""
    since = run.status_changed_at or now
    limit = STOP_SECONDS
    if run.cancel_requested_at is None:
        limit = max(limit, run.patience_seconds or 0.0)
    overdue = now - since > timedelta(seconds=limit)
    host.stop(str(run.pk), force=overdue or sighting.attempt != run.attempt)


def _look(run: TrainingRun, host: TrainerHost, sighting: Sighting, *, now: datetime) -> bool:
    """Take up what the trainer told, and move on accordingly."""
    name = str(run.pk)
    news = progress.read(RunFolders(host.folder(name)).progress, offset=run.progress_offset)
    log_tail = host.log_tail(name).replace("\0", "")
    has_hung = False
    with leases.finish(run) as current:
        before = current.status
        _take_up(current, news, log_tail, now=now)
        ending = progress.ending_of(current)
        status, reason = next_status(
            status=before,
            wanted=current.cancel_requested_at is None,
            paused=current.pause_requested_at is not None,
            seen=_seen(current, sighting),
            ending=ending.kind if ending else None,
            has_begun=progress.has_begun(current),
            may_retry=_may_retry(current, ending),
            may_stay=current.node is not None and current.node.cordoned_at is None,
        )
        if reason:
            _move(current, status, reason, ending or _silent(current, sighting), sighting, now=now)
        elif sighting.seen is Seen.RUNNING and before in (S.STARTING, S.RUNNING):
            has_hung = ending is None and _note_if_hung(current, now=now)
    if has_hung:
        host.stop(name, force=True)
    return bool(reason) and status not in TERMINAL


def _take_up(run: TrainingRun, news: News, log_tail: str, *, now: datetime) -> None:
    if news.offset == run.progress_offset and log_tail in ("", run.log_tail):
        return  # a look that finds nothing new, as most do, writes nothing
    progress.take_up(run, news, now=now)
    run.log_tail = log_tail or run.log_tail
    run.save(update_fields=OBSERVED)


def _note_if_hung(run: TrainingRun, *, now: datetime) -> bool:
    """Whether the trainer has been silent for longer than its own pace explains."""
    if run.told_at is None:  # the agent was killed around the start
        run.told_at = now
        run.save(update_fields=OBSERVED)
        return False
    limit = LOADING_SECONDS
    if run.patience_seconds is not None:
        limit = max(settings.FACTORY_TRAINER_SILENCE_SECONDS, run.patience_seconds)
    silent = (now - run.told_at).total_seconds()
    if silent <= limit:
        return False
    text = f"The trainer has said nothing for {silent:.0f} s, where {limit:.0f} s is allowed."
    if run.status_reason != HUNG:
        run.status_reason, run.message = HUNG, text
        run.save(update_fields=OBSERVED)
        tell(run, HUNG, f"{text} It is killed.", level=EventLevel.WARN, now=now)
    return True


def _move(
    run: TrainingRun, status: S, reason: str, ending: Ending, sighting: Sighting, *, now: datetime
) -> None:
    match status:
        case S.FAILED:
            fail(run, ending, now=now)
        case S.CANCELLED:
            release(run, reason="cancelled", now=now)
            end(run, S.CANCELLED, reason, now=now)
            tell(run, "cancelled", "Cancelled; the accelerators are free again.", now=now)
        case S.STARTING:
            if sighting.memory_ran_out:
                _split_micro_batches(run, now=now)
            _restart(run, reason, ending.message, now=now)
        case S.PENDING:
            _leave(run, S.PENDING, reason, "The trainer yielded: its node is emptied.", now=now)
        case S.PAUSED:
            text = f"Paused at step {run.step}; the accelerators are free again."
            _leave(run, S.PAUSED, reason, f"{text} Its checkpoints stay on {run.node}.", now=now)
        case S.RUNNING:
            run.started_at = run.started_at or now
            run.save(update_fields=OBSERVED)
            run.transition(S.RUNNING, now=now, reason=reason)
        case S.PUBLISHING:
            run.failures, run.next_attempt_at = 0, None
            run.save(update_fields=OBSERVED)
            run.transition(S.PUBLISHING, now=now, reason=reason)
        case _:
            run.transition(status, now=now, reason=reason)


def _leave(run: TrainingRun, status: S, reason: str, text: str, *, now: datetime) -> None:
    """Off its accelerators, to come back to its checkpoints later."""
    release(run, reason=reason, now=now)
    run.allocation = None
    run.seconds_left = run.tokens_per_second = None
    run.save(update_fields=OBSERVED)
    run.transition(status, now=now, reason=reason)
    tell(run, reason, text, now=now)


def _restart(run: TrainingRun, reason: str, why: str, *, now: datetime) -> None:
    """The next attempt, after a pause that grows with every failure; nothing else is given up."""
    if reason != "resumes":
        run.failures += 1
    run.attempt += 1
    pause = timedelta(seconds=min(4 ** max(run.failures - 1, 0), 60))
    run.next_attempt_at = now + pause
    run.tokens_per_second = run.seconds_left = run.told_at = None
    if not run.transition(S.STARTING, now=now, reason=reason, message=why):
        run.status_reason, run.message = reason, why
    run.save(update_fields=OBSERVED)
    text = f"Attempt {run.attempt} goes on from the last checkpoint. {why}".strip()
    tell(run, "restart", text, reason=reason, failures=run.failures, now=now)


def _split_micro_batches(run: TrainingRun, *, now: datetime) -> None:
    """The kernel killed the trainer for memory, so it could not halve its batches itself."""
    if run.micro_batch_splits >= run.hyperparameters.get("batch_size", 1):
        return
    run.micro_batch_splits *= 2
    text = (
        "The node ran out of memory and killed the trainer. From now on each micro-batch is cut "
        f"into {run.micro_batch_splits}; steps stay as large as they were, and losses the same."
    )
    tell(run, "micro_batch_halved", text, level=EventLevel.WARN, now=now)


def _seen(run: TrainingRun, sighting: Sighting) -> Seen:
    """What is seen of the present attempt: what an earlier one left behind is as good as nothing."""
    if sighting.seen is Seen.EXITED and sighting.attempt != run.attempt:
        return Seen.ABSENT
    return sighting.seen


def _may_retry(run: TrainingRun, ending: Ending | None) -> bool:
    hopeless = ending is not None and ending.kind == Kind.FAILED and ending.reason in HOPELESS
    return not hopeless and run.failures + 1 < MAX_FAILURES


def _silent(run: TrainingRun, sighting: Sighting) -> Ending:
    """What can be said of a trainer that ended without a word."""
    if sighting.seen is Seen.ABSENT:
        return Ending("", "trainer_lost", "The node knows nothing of the trainer any more.")
    if run.status_reason == HUNG:
        return Ending("", HUNG, run.message, "See the end of its log for what it was at.")
    if sighting.memory_ran_out:
        return Ending(
            "",
            FailureReason.OUT_OF_MEMORY,
            "The node ran out of memory and killed the trainer.",
            "Use a smaller batch_size, shorter examples or a smaller base.",
        )
    code = sighting.returncode
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        text = f"The trainer was killed by signal {-code} ({name})."
        return Ending("", "trainer_killed", text, "If nobody did it, look at the node's memory.")
    status = "" if code is None else f" with status {code}"
    return Ending("", "trainer_exited", f"The trainer ended{status}.", "See the end of its log.")


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
