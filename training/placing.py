"""Control's part of a training run: accelerators for what is pending, and off nodes that are lost.

Either may run late, twice, or be killed at any point; the next one goes on from what is written.
"""

import dataclasses
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q

from chips import services as chips
from chips.choices import NodeStatus, Purpose
from chips.models import Allocation, Node
from common import jobs, leases
from planner.placement import AcceleratorRequest
from training import planning
from training.choices import HOLDING, EventLevel, RunStatus
from training.models import Checkpoint, TrainingRun
from training.outcomes import OBSERVED, end, release, tell

S = RunStatus
# How long a run waits for the node that has its checkpoints before it starts anew elsewhere.
HOME_SECONDS = 600.0


def to_place() -> Q:
    """Rows that `place_run` has something to do about: those that wait, and paused ones that are
    wanted again, or no more."""
    woken = Q(pause_requested_at__isnull=True) | Q(cancel_requested_at__isnull=False)
    return Q(status=S.PENDING) | (Q(status=S.PAUSED) & woken)


def place_run(run_id: UUID, *, now: datetime) -> bool:
    """Hold accelerators for a pending run, or say why none can be had; true if it was placed."""
    run = leases.take(TrainingRun.objects.filter(to_place()), run_id, now=now)
    if run is None:
        return False
    if run.cancel_requested_at is not None:
        with leases.finish(run) as current:
            release(current, reason="cancelled", now=now)
            end(current, S.CANCELLED, "cancelled", now=now)
        return False
    if run.pause_requested_at is not None:
        with leases.finish(run) as current:
            release(current, reason="paused", now=now)
            current.transition(S.PAUSED, now=now, reason="paused")
            tell(current, "paused", "Paused before it was placed.", now=now)
        return False
    if run.status == S.PAUSED:
        with leases.finish(run) as current:
            current.transition(S.PENDING, now=now, reason="resumed")
            tell(current, "resumed", "Wanted again; it waits for accelerators.", now=now)
        return place_run(run_id, now=now)
    if run.next_attempt_at is not None and now < run.next_attempt_at:
        leases.release(run)
        return False
    try:
        allocation = _allocate(run, now=now)
    except chips.NothingFits as refusal:
        _say_why_not(run, refusal)
        return False
    with leases.finish(run) as current:
        if current.node_id not in (None, allocation.node_id):
            _start_anew(current, now=now)
        current.allocation, current.node = allocation, allocation.node
        current.attempt += 1
        current.next_attempt_at = None
        current.save(update_fields=OBSERVED)
        current.transition(S.STARTING, now=now, reason="placed")
        tell(current, "placed", f"Placed on {allocation.node_name}.", now=now)
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
        release(current, reason="node_lost", now=now)
        text = f"Node {current.node or ''} was lost."
        tell(current, "node_lost", text, level=EventLevel.WARN, now=now)
        if current.cancel_requested_at is not None:
            if current.status != S.STOPPING:
                current.transition(S.STOPPING, now=now, reason="node_lost")
            end(current, S.CANCELLED, "node_lost", now=now)
            return True
        current.allocation = None
        current.seconds_left = current.tokens_per_second = None
        current.save(update_fields=OBSERVED)
        current.transition(S.PENDING, now=now, reason="node_lost")
    return True


def on_lost_node() -> Q:
    """Rows whose node is lost or no longer there."""
    return Q(node__isnull=True) | Q(node__status=NodeStatus.LOST)


def _allocate(run: TrainingRun, *, now: datetime) -> Allocation:
    """Accelerators where the run's checkpoints are; elsewhere if there are none, or if it has
    waited long enough for that node. Raises NothingFits."""
    request = planning.accelerator_request(run)
    home = _home(run)
    if home is None:
        return _ask(run, request, now=now)
    try:
        return _ask(run, dataclasses.replace(request, node_id=home.pk), now=now)
    except chips.NothingFits as refusal:
        waited = now - (run.status_changed_at or now)
        if refusal.is_passing and waited < timedelta(seconds=HOME_SECONDS):
            refusal.message += f" Its checkpoints are on {home.name}: it waits for that node first."
            raise
    return _ask(run, request, now=now)


def _ask(run: TrainingRun, request: AcceleratorRequest, *, now: datetime) -> Allocation:
    return chips.allocate(
        organization=run.organization,
        purpose=Purpose.TRAINING,
        holder_id=run.pk,
        holder_name=f"training run {run.name}",
        subject_name=run.name,
        request=request,
        now=now,
    )


def _home(run: TrainingRun) -> Node | None:
    """The node that has checkpoints of the run, while it is not lost."""
    if run.node is None or run.node.status == NodeStatus.LOST:
        return None
    saved = Checkpoint.objects.filter(run=run, pruned_at=None).exists()
    return run.node if saved else None


def _say_why_not(run: TrainingRun, refusal: chips.NothingFits) -> None:
    message = _explain(refusal)
    if (run.status_reason, run.message) == ("nothing_fits", message):
        leases.release(run)  # said before: waiting runs are looked at often
        return
    with leases.finish(run) as current:
        current.status_reason, current.message = "nothing_fits", message
        current.save(update_fields=["status_reason", "message"])


def _explain(refusal: chips.NothingFits) -> str:
    lines = [refusal.message]
    if isinstance(refusal.details, list) and len(refusal.details) > 1:
        lines += [f"{line['pool']}: {line['message']}." for line in refusal.details]
    return "\n".join([*lines, refusal.remedy])


def _start_anew(run: TrainingRun, *, now: datetime) -> None:
    """Another node has none of the checkpoints: the run begins again there."""
    run.progress_offset = run.step = 0
    Checkpoint.objects.filter(run=run, pruned_at=None).update(pruned_at=now)
    text = f"It starts anew: its checkpoints are on {run.node}, which it had to leave."
    tell(run, "starts_anew", text, level=EventLevel.WARN, now=now)
