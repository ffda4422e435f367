"""One placed replica on its node: from what is wanted and seen to the next status."""

import random
import socket
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from chips import selectors as chips
from common import leases
from common.errors import DomainError
from deployments import adapters, planning
from deployments.choices import PLACED, ReplicaStatus
from deployments.models import Deployment, Replica
from deployments.reconcile.moves import count_failure, move, writing
from engines import failures
from engines.host import Ended, EngineHost, Seen, SpecError
from models_registry import cache

S = ReplicaStatus
PORTS = range(20_000, 32_000)  # below Linux's range for outgoing connections (32768 and up)
PORT_ATTEMPTS = 50
LEASE_SECONDS = 15.0  # kept while a step works, however long weights take to fetch
UNROUTE = timedelta(seconds=1)  # what gateways get to hear that a replica drains
# A replica that drains for one of these has failed, and has been counted as failed.
FAULTS = {
    "startup_limit": "The engine was not ready within its time limit.",
    "engine_unhealthy": "The engine lives and does not answer.",
    "engine_silent": "The engine says that it is well and answers no request.",
}


def list_placed(node_id: UUID) -> QuerySet[Replica]:
    """The replicas that the node's agent looks after."""
    return Replica.objects.filter(node=node_id, status__in=PLACED)


def is_at_rest(*, status: str, wanted: bool) -> bool:
    """Whether such a replica needs no step as long as its engine is seen healthy."""
    return wanted and status == S.READY


def end_with_agent(node_id: UUID, *, now: datetime) -> int:
    """The node's agent has ended its engines and ends itself: its replicas have failed, through no
    fault of theirs. Returns how many."""
    rows = list(list_placed(node_id).values_list("pk", "deployment_id"))
    for replica_id, deployment_id in rows:
        with transaction.atomic():
            Deployment.objects.select_for_update(no_key=True).get(pk=deployment_id)
            replica = Replica.objects.select_for_update(no_key=True).get(pk=replica_id)
            if replica.status in PLACED:
                message = "The node's agent was stopped, and its engines with it."
                move(replica, S.FAILED, now=now, reason="agent_stopped", message=message)
    return len(rows)


def break_leases(node_id: UUID) -> int:
    """Free the node's replicas from leases of an agent that is no more. Call it only where no
    other agent of this node can be alive."""
    rows = list_placed(node_id).filter(lease_token__isnull=False)
    return rows.update(lease_token=None, leased_until=None)


def next_status(
    *, wanted: bool, status: str, seen: Seen, is_overdue: bool, fault: bool
) -> tuple[S, str]:
    """Pure: which status follows, and why. `fault`: it drains because it has failed."""
    match wanted, status, seen:
        case _, S.DRAINING, Seen.ABSENT | Seen.EXITED:
            return (S.FAILED, "") if fault else (S.STOPPED, "drained")
        case False, S.STARTING | S.READY, _:
            return S.DRAINING, "not_wanted"
        case True, S.STARTING, Seen.HEALTHY:
            return S.READY, "healthy"
        case True, S.STARTING | S.READY, Seen.EXITED:
            return S.FAILED, "engine_exited"
        case True, S.READY, Seen.ABSENT:
            return S.FAILED, "engine_lost"
        case True, S.STARTING | S.READY, Seen.UNHEALTHY:
            return S.DRAINING, "engine_unhealthy"
        case True, S.STARTING, _ if is_overdue:
            return S.DRAINING, "startup_limit"
    return S(status), ""


def step_replica(replica_id: UUID, *, host: EngineHost, now: datetime) -> bool:
    """One step of a placed replica; true if it moved, so that another may follow at once."""
    rows = Replica.objects.filter(status__in=PLACED)
    at_rest = rows.filter(pk=replica_id, status=S.READY, wanted=True)
    if at_rest.exists() and host.observe(str(replica_id)) is Seen.HEALTHY:
        return False
    replica = leases.take(rows, replica_id, now=now, seconds=LEASE_SECONDS)
    if replica is None:  # ended, or someone else is at work on it
        return False
    try:
        with leases.kept(replica, seconds=LEASE_SECONDS):
            return _step(replica, host=host, now=now)
    finally:
        leases.release(replica)


def _step(replica: Replica, *, host: EngineHost, now: datetime) -> bool:
    name, failure = str(replica.pk), None
    seen = host.observe(name)  # slow: no transaction is open here
    log_tail = host.log_tail(name)
    limit = planning.startup_limit_seconds(replica.variant)
    is_overdue = now - (replica.placed_at or now) > timedelta(seconds=limit)
    if replica.status == S.STARTING and replica.wanted and seen is Seen.ABSENT and not is_overdue:
        failure = _launch(replica, host=host, now=now)
        seen = Seen.STARTING
    elif replica.status == S.DRAINING and seen is not Seen.ABSENT and _is_unrouted(replica, now):
        host.stop(name)
    status, reason = next_status(
        wanted=replica.wanted,
        status=replica.status,
        seen=seen,
        is_overdue=is_overdue,
        fault=replica.status_reason in FAULTS,
    )
    if failure is not None:
        status, (reason, message) = S.FAILED, failure
    else:
        reason = reason or replica.status_reason
        reason, message = _explain(status, reason, log_tail, host.ended(name))
    pid = host.pid(name)
    with writing(replica) as current:
        if (pid, log_tail) != (current.pid, current.log_tail):
            current.pid, current.log_tail = pid, log_tail or current.log_tail
            current.save(update_fields=["pid", "log_tail"])
        if status == current.status:
            return False
        if status == S.DRAINING:
            current.drain_deadline_at = now + timedelta(seconds=_drain_seconds(current))
            current.save(update_fields=["drain_deadline_at"])
        has_failed = status == S.FAILED and current.status != S.DRAINING
        if has_failed or (status == S.DRAINING and reason in FAULTS):
            count_failure(current, now=now)
        move(current, status, now=now, reason=reason, message=message)
    return True


def _launch(replica: Replica, *, host: EngineHost, now: datetime) -> tuple[str, str] | None:
    """Fetch the weights, choose a port, start the engine; or reason and message of a failure."""
    if replica.node is None or replica.allocation is None:
        return "not_placed", "The replica has lost its node or its accelerators."
    try:
        root = planning.weights_folder(replica.node.name)
        folder = cache.materialize(adapters.base_of(replica.revision), root=root)
        replica.port = _record_port(replica)
        devices = chips.list_devices(replica.allocation)
        host.start(planning.serve_spec(replica, devices, folder))
    except DomainError as error:
        return error.code, f"{error.message} {error.remedy}".strip()
    except SpecError as error:
        return "bad_spec", str(error)
    except OSError as error:
        return "cannot_start", f"The engine could not be started: {error}"
    return None


def _record_port(replica: Replica) -> int:
    """A port for the engine, in the row before anything listens on it. Raises OSError if none."""
    wished = [replica.port] if replica.port else []
    for port in [*wished, *random.sample(PORTS, PORT_ATTEMPTS)]:
        if not _is_free(replica.address, port):
            continue
        try:
            with transaction.atomic():
                mine = Replica.objects.filter(pk=replica.pk, lease_token=replica.lease_token)
                if mine.update(port=port):
                    return port
                raise leases.LeaseLost(f"{replica} was taken over")
        except IntegrityError:  # another replica of this node has it, and does not listen yet
            continue
    raise OSError(f"no free port between {PORTS.start} and {PORTS.stop - 1}")


def _is_free(address: str, port: int) -> bool:
    try:
        socket.create_server((address, port)).close()
    except OSError:
        return False
    return True


def _is_unrouted(replica: Replica, now: datetime) -> bool:
    """Whether gateways have had time to hear; none ever knew of one that was not ready."""
    if replica.ready_at is None or replica.status_changed_at is None:
        return True
    return now - replica.status_changed_at >= UNROUTE


def _drain_seconds(replica: Replica) -> float:
    return planning.ServeSettings.read(replica.variant.settings).drain_seconds


def _explain(status: S, reason: str, log_tail: str, ended: Ended | None) -> tuple[str, str]:
    """The reason code, made more exact where the engine's end tells it, and a sentence for people."""
    if reason in FAULTS:
        return reason, f"{FAULTS[reason]} {failures.last_error(log_tail)}".strip()
    if status != S.FAILED:
        return reason, ""
    if reason == "engine_exited" and ended is not None:
        failure = failures.explain(ended.log, ended)
        return failure.code, failure.text
    return reason, f"The engine is gone. {failures.last_error(log_tail)}".strip()
