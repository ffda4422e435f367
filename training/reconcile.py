"""Bringing training runs from what is wanted to what is.

`place_run` is control's: it finds accelerators. `step_run` is the agent's, on the node that has
them: one look at the trainer, at most one act, one write. Any of them may run late, twice, or be
killed at any point; the next one goes on from what is written and what is seen.
"""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q

from chips import selectors as chips_selectors
from chips import services as chips
from chips.choices import NodeStatus, Purpose
from common import jobs, leases
from common.errors import DomainError
from models_registry import cache, storage
from models_registry import services as registry
from models_registry.choices import RevisionKind, SourceKind
from trainer.errors import FailureReason, TrainingFailure
from trainer.host import Seen, Sighting, TrainerHost
from trainer.progress import Kind
from training import planning, progress
from training.choices import HOLDING, TERMINAL, RunStatus, Tuning
from training.models import Checkpoint, TrainingEvent, TrainingRun
from training.planning import RunFolders
from training.progress import Ending, News

logger = logging.getLogger(__name__)

S = RunStatus
LEASE_SECONDS = 15.0  # kept while a step works; what a killed agent's run waits for its next step
STOP_SECONDS = 30.0  # from SIGTERM to SIGKILL: a trainer saves a checkpoint in between
MAX_FAILURES = 4  # trainers that died one after another without a new checkpoint
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
OBSERVED = (
    "attempt",
    "failures",
    "next_attempt_at",
    "progress_offset",
    "step",
    "total_steps",
    "train_loss",
    "eval_loss",
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


def next_status(
    *,
    status: str,
    wanted: bool,
    seen: Seen,
    ending: str | None = None,
    has_begun: bool = False,
    may_retry: bool = True,
    may_stay: bool = True,
) -> tuple[S, str]:
    """Pure: which status follows, and why; the same status and "" if there is nothing to do.

    `seen` is of the present attempt (an older one's exit counts as absent), `ending` its last word
    in the progress file. `may_stay` is false on a node that is being emptied.
    """
    is_gone = seen is not Seen.RUNNING
    match status:
        case S.STOPPING if is_gone:
            return S.CANCELLED, "cancelled"
        case S.STARTING | S.RUNNING if not wanted:
            return S.STOPPING, "cancel_requested"
        case S.STARTING | S.RUNNING if ending == Kind.FINISHED:
            return S.PUBLISHING, "trained"
        case S.STARTING | S.RUNNING if seen is Seen.EXITED and ending == Kind.YIELDED:
            return (S.STARTING, "resumes") if may_stay else (S.PENDING, "yielded")
        case S.STARTING | S.RUNNING if seen is Seen.EXITED:
            return (S.STARTING, "trainer_exited") if may_retry else (S.FAILED, "trainer_failed")
        case S.RUNNING if seen is Seen.ABSENT:
            return (S.STARTING, "trainer_lost") if may_retry else (S.FAILED, "trainer_failed")
        case S.STARTING if seen is Seen.RUNNING and has_begun:
            return S.RUNNING, "trainer_started"
    return S(status), ""


def place_run(run_id: UUID, *, now: datetime) -> bool:
    """Hold accelerators for a pending run, or say why none can be had; true if it was placed."""
    run = leases.take(TrainingRun.objects.filter(status=S.PENDING), run_id, now=now)
    if run is None:
        return False
    if run.cancel_requested_at is not None:
        with leases.finish(run) as current:
            _release(current, reason="cancelled", now=now)
            _end(current, S.CANCELLED, "cancelled", now=now)
        return False
    if run.next_attempt_at is not None and now < run.next_attempt_at:
        leases.release(run)
        return False
    try:
        allocation = chips.allocate(
            organization=run.organization,
            purpose=Purpose.TRAINING,
            holder_id=run.pk,
            holder_name=f"training run {run.name}",
            subject_name=run.name,
            request=planning.accelerator_request(run),
            now=now,
        )
    except chips.NothingFits as refusal:
        message = _explain(refusal)
        if (run.status_reason, run.message) == ("nothing_fits", message):
            leases.release(run)  # said before: waiting runs are looked at often
            return False
        with leases.finish(run) as current:
            current.status_reason, current.message = "nothing_fits", message
            current.save(update_fields=["status_reason", "message"])
        return False
    with leases.finish(run) as current:
        if current.node_id not in (None, allocation.node_id):
            _start_anew(current, now=now)
        current.allocation, current.node = allocation, allocation.node
        current.attempt += 1
        current.next_attempt_at = None
        current.save(update_fields=OBSERVED)
        current.transition(S.STARTING, now=now, reason="placed")
        _tell(current, "placed", f"Placed on {allocation.node_name}.", now=now)
        if allocation.node is not None:
            jobs.enqueue("agent.step_run", queue=allocation.node.queue, run_id=str(run.pk))
    return True


def leave_lost_node(run_id: UUID, *, now: datetime) -> bool:
    """Take a run off a node that is lost: back to pending, or cancelled if it was to be."""
    rows = TrainingRun.objects.filter(on_lost_node(), status__in=HOLDING)
    run = leases.take(rows, run_id, now=now)
    if run is None:
        return False
    with leases.finish(run) as current:
        _release(current, reason="node_lost", now=now)
        _tell(current, "node_lost", f"Node {current.node or ''} was lost.", now=now)
        if current.status == S.STOPPING or current.cancel_requested_at is not None:
            if current.status != S.STOPPING:
                current.transition(S.STOPPING, now=now, reason="node_lost")
            _end(current, S.CANCELLED, "node_lost", now=now)
            return True
        current.allocation = None
        current.seconds_left = current.tokens_per_second = None
        current.save(update_fields=OBSERVED)
        current.transition(S.PENDING, now=now, reason="node_lost")
    return True


def on_lost_node() -> Q:
    """Rows whose node is lost or no longer there."""
    return Q(node__isnull=True) | Q(node__status=NodeStatus.LOST)


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
            return _step_publishing(run, host, sighting, now=now)
        if sighting.seen is Seen.RUNNING and (
            run.status == S.STOPPING or sighting.attempt != run.attempt
        ):
            _stop(run, host, sighting, now=now)
        elif run.status == S.STARTING and run.cancel_requested_at is None:
            due = run.next_attempt_at is None or run.next_attempt_at <= now
            if due and _seen(run, sighting) is Seen.ABSENT:
                return _start(run, host, now=now)
        return _look(run, host, sighting, now=now)


def sweep_node(*, host: TrainerHost, now: datetime) -> frozenset[str]:
    """Kill and remove what no run wants on this node any more: runs that are over, or elsewhere.

    A pending run's folder stays, for it may come back to its checkpoints; its trainer may not go
    on without accelerators. Answers with the names of what was removed.
    """
    here = TrainingRun.objects.filter(node__name=host.node_name).exclude(status__in=TERMINAL)

    def known(names: frozenset[str]) -> set[str]:
        ids = [name for name in names if _is_id(name)]
        return {str(pk) for pk in here.filter(pk__in=ids).values_list("pk", flat=True)}

    strays = host.sweep(known)
    for run in here.filter(status=S.PENDING):
        sighting = host.observe(str(run.pk))
        if sighting.seen is Seen.RUNNING:
            logger.warning("run %s is pending, its trainer on this node is stopped", run.pk)
            _stop(run, host, sighting, now=now)
    return strays


def _start(run: TrainingRun, host: TrainerHost, *, now: datetime) -> bool:
    """Fetch weights and data, then start the trainer. What goes wrong counts as its failure."""
    folders = RunFolders(host.folder(str(run.pk)))
    try:
        base = cache.materialize(run.base_revision, root=host.cache)
        splits = {split.name: split.blob_id for split in run.dataset_version.splits.all()}
        for name, path in ((run.train_split, folders.train), (run.eval_split, folders.eval)):
            if name and not path.exists():
                storage.copy_blob(splits[name], path)
        allocation = run.allocation
        devices = chips_selectors.list_devices(allocation) if allocation is not None else []
        spec = planning.train_spec(run, base=base, folders=folders, devices=devices)
        host.start(spec, environment=planning.environment(devices))
    except (DomainError, TrainingFailure, OSError) as error:
        logger.warning("run %s cannot be started: %s", run.pk, error)
        ending = _as_ending(error)
        with leases.finish(run) as current:
            if isinstance(error, planning.CannotTrainThere) or not _may_retry(current, ending):
                _fail(current, ending, now=now)
            else:
                _restart(current, "start_failed", ending.message, now=now)
        return False
    leases.release(run)
    return True


def _stop(run: TrainingRun, host: TrainerHost, sighting: Sighting, *, now: datetime) -> None:
    """SIGTERM, and SIGKILL past the deadline; at once for a trainer of an earlier attempt."""
    since = run.status_changed_at or now
    overdue = now - since > timedelta(seconds=STOP_SECONDS)
    host.stop(str(run.pk), force=overdue or sighting.attempt != run.attempt)


def _look(run: TrainingRun, host: TrainerHost, sighting: Sighting, *, now: datetime) -> bool:
    """Take up what the trainer told, and move on accordingly."""
    name = str(run.pk)
    news = progress.read(RunFolders(host.folder(name)).progress, offset=run.progress_offset)
    log_tail = host.log_tail(name).replace("\0", "")
    with leases.finish(run) as current:
        before = current.status
        _take_up(current, news, log_tail, now=now)
        ending = progress.ending_of(current)
        status, reason = next_status(
            status=before,
            wanted=current.cancel_requested_at is None,
            seen=_seen(current, sighting),
            ending=ending.kind if ending else None,
            has_begun=progress.has_begun(current),
            may_retry=_may_retry(current, ending),
            may_stay=current.node is not None and current.node.cordoned_at is None,
        )
        if reason:
            _move(current, status, reason, ending or _silent(sighting), now=now)
    return bool(reason) and status not in TERMINAL


def _take_up(run: TrainingRun, news: News, log_tail: str, *, now: datetime) -> None:
    if news.offset == run.progress_offset and log_tail in ("", run.log_tail):
        return  # a look that finds nothing new, as most do, writes nothing
    progress.take_up(run, news, now=now)
    run.log_tail = log_tail or run.log_tail
    run.save(update_fields=OBSERVED)


def _move(run: TrainingRun, status: S, reason: str, ending: Ending, *, now: datetime) -> None:
    match status:
        case S.FAILED:
            _fail(run, ending, now=now)
        case S.CANCELLED:
            _release(run, reason="cancelled", now=now)
            _end(run, S.CANCELLED, reason, now=now)
            _tell(run, "cancelled", "Cancelled; the accelerators are free again.", now=now)
        case S.STARTING:
            _restart(run, reason, ending.message, now=now)
        case S.PENDING:
            _release(run, reason=reason, now=now)
            run.allocation = None
            run.save(update_fields=OBSERVED)
            run.transition(S.PENDING, now=now, reason=reason)
            _tell(run, reason, "The trainer yielded: its node is being emptied.", now=now)
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


def _restart(run: TrainingRun, reason: str, why: str, *, now: datetime) -> None:
    """The next attempt, after a pause that grows with every failure; nothing else is given up."""
    if reason != "resumes":
        run.failures += 1
    run.attempt += 1
    pause = timedelta(seconds=min(4 ** max(run.failures - 1, 0), 60))
    run.next_attempt_at = now + pause
    run.tokens_per_second = run.seconds_left = None
    if not run.transition(S.STARTING, now=now, reason=reason, message=why):
        run.status_reason, run.message = reason, why
    run.save(update_fields=OBSERVED)
    text = f"Attempt {run.attempt} goes on from the last checkpoint. {why}".strip()
    _tell(run, "restart", text, reason=reason, failures=run.failures, now=now)


def _step_publishing(
    run: TrainingRun, host: TrainerHost, sighting: Sighting, *, now: datetime
) -> bool:
    """First the trainer must be gone, then its accelerators go back, then the result is kept."""
    if sighting.seen is Seen.RUNNING:
        since = run.status_changed_at or now
        if now - since > timedelta(seconds=STOP_SECONDS):
            host.stop(str(run.pk), force=True)
        leases.release(run)
        return False
    if run.allocation is not None and run.allocation.released_at is None:
        with leases.finish(run) as current:
            _release(current, reason="trained", now=now)
        return True
    if run.next_attempt_at is not None and now < run.next_attempt_at:
        leases.release(run)
        return False
    try:
        revision = registry.publish_folder(
            organization=run.organization,
            name=run.output_name,
            folder=RunFolders(host.folder(str(run.pk))).output,
            kind=RevisionKind.ADAPTER if run.tuning == Tuning.LORA else RevisionKind.FULL,
            source_kind=SourceKind.TRAINING_RUN,
            source=run.name,
            parent=run.base_revision,
            lineage=planning.lineage(run),
            now=now,
        )
    except (DomainError, OSError) as error:
        logger.warning("the result of run %s cannot be published: %s", run.pk, error)
        _publish_again(run, _as_ending(error), now=now)
        return False
    with leases.finish(run) as current:
        current.result_revision = revision
        _end(current, S.SUCCEEDED, "published", now=now)
        _tell(
            current, "published", f"The result is {revision}.", revision=str(revision.pk), now=now
        )
    return False


def _publish_again(run: TrainingRun, ending: Ending, *, now: datetime) -> None:
    with leases.finish(run) as current:
        current.failures += 1
        current.next_attempt_at = now + timedelta(seconds=min(4**current.failures, 60))
        current.status_reason, current.message = "publish_failed", ending.message
        current.save(update_fields=OBSERVED)
        if current.failures >= MAX_FAILURES:
            _fail(current, ending, now=now)


def _fail(run: TrainingRun, ending: Ending, *, now: datetime) -> None:
    """The end, with what went wrong and what to do about it."""
    message = " ".join(part for part in (ending.message, ending.remedy) if part)
    reason = ending.reason or "trainer_exited"
    _release(run, reason="failed", now=now)
    _end(run, S.FAILED, reason[:64], message, now=now)
    _tell(run, "gave_up", message, reason=reason, failures=run.failures, now=now)


def _end(run: TrainingRun, status: S, reason: str, message: str = "", *, now: datetime) -> None:
    run.ended_at = now
    run.seconds_left = None
    run.save(update_fields=OBSERVED)
    run.transition(status, now=now, reason=reason, message=message)
    # the node removes the run's folder once it is over
    Checkpoint.objects.filter(run=run, pruned_at=None).update(pruned_at=now)


def _release(run: TrainingRun, *, reason: str, now: datetime) -> None:
    live = chips_selectors.get_live_allocation(run.pk)
    if live is not None:
        chips.release(allocation_id=live.pk, reason=reason, now=now)


def _start_anew(run: TrainingRun, *, now: datetime) -> None:
    """Another node has none of the checkpoints: the run begins again there."""
    run.progress_offset = run.step = 0
    Checkpoint.objects.filter(run=run, pruned_at=None).update(pruned_at=now)
    text = f"It starts anew: its checkpoints are on {run.node}, which it had to leave."
    _tell(run, "starts_anew", text, now=now)


def _seen(run: TrainingRun, sighting: Sighting) -> Seen:
    """What is seen of the present attempt: what an earlier one left behind is as good as nothing."""
    if sighting.seen is Seen.EXITED and sighting.attempt != run.attempt:
        return Seen.ABSENT
    return sighting.seen


def _may_retry(run: TrainingRun, ending: Ending | None) -> bool:
    hopeless = ending is not None and ending.kind == Kind.FAILED and ending.reason in HOPELESS
    return not hopeless and run.failures + 1 < MAX_FAILURES


def _silent(sighting: Sighting) -> Ending:
    """What can be said of a trainer that ended without a word."""
    if sighting.seen is Seen.ABSENT:
        return Ending("", "trainer_lost", "The node knows nothing of the trainer any more.")
    code = sighting.returncode
    if code is not None and code < 0:
        return Ending(
            "",
            "trainer_killed",
            f"The trainer was killed by signal {-code}.",
            "If nobody did it, the node ran out of memory: use a smaller batch or shorter examples.",
        )
    status = "" if code is None else f" with status {code}"
    return Ending("", "trainer_exited", f"The trainer ended{status}.", "See the end of its log.")


def _as_ending(error: Exception) -> Ending:
    if isinstance(error, TrainingFailure):
        return Ending(Kind.FAILED, error.reason, error.message, error.remedy)
    if isinstance(error, DomainError):
        return Ending("", error.code, error.message, error.remedy)
    return Ending("", "node_error", f"The node could not do it: {error}.")


def _explain(refusal: chips.NothingFits) -> str:
    lines = [refusal.message]
    if isinstance(refusal.details, list) and len(refusal.details) > 1:
        lines += [f"{line['pool']}: {line['message']}." for line in refusal.details]
    return "\n".join([*lines, refusal.remedy])


def _tell(run: TrainingRun, kind: str, message: str, *, now: datetime, **data: object) -> None:
    TrainingEvent.objects.create(run=run, at=now, kind=kind, message=message, data=data)


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
