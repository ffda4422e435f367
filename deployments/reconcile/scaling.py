"""From the load that gateways see to how many replicas are wanted."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction

from accounts import audit
from deployments import adapters, services, signals
from deployments.choices import ROLLOUT_OPEN, DeploymentStatus, ReplicaStatus
from deployments.models import Autoscaling, Deployment, Replica, Rollout
from deployments.services import autoscaling
from planner import scaling
from planner.scaling import Decision, Goal, Load

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60.0  # over which times to the first token are taken
QUIET_SECONDS = 20.0  # without any request: idle


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A deployment's load, the limits that hold now, and what follows from them."""

    goal: Goal
    load: Load | None  # None: nobody tells
    ready: int
    decision: Decision


class Sights:
    """One look at what all gateways tell, shared by the deployments of a sweep."""

    def __init__(self, deployment_ids: Sequence[UUID]) -> None:
        self._open = signals.read_now()
        self._window = signals.read_window(seconds=WINDOW_SECONDS)
        self._recent = signals.read_window(seconds=QUIET_SECONDS)
        self._replicas: dict[UUID, list[Replica]] = {}
        placed = Replica.objects.filter(
            deployment__in=deployment_ids, status__in=[ReplicaStatus.READY, ReplicaStatus.DRAINING]
        )
        self._guests = adapters.list_guest_ids(deployment_ids)
        rollouts = Rollout.objects.filter(deployment__in=deployment_ids, status__in=ROLLOUT_OPEN)
        self._rolling = set(rollouts.values_list("deployment", flat=True))
        for replica in placed.only("pk", "deployment_id", "status", "wanted"):
            self._replicas.setdefault(replica.deployment_id, []).append(replica)

    def ready(self, deployment_id: UUID) -> int:
        return len(self._serving(deployment_id))

    def load(self, deployment_id: UUID) -> Load | None:
        """The deployment's load, or None if nobody knows it."""
        if self._open is None or self._window is None or self._recent is None:
            return None
        serving = self._serving(deployment_id)
        everywhere = [replica.pk for replica in self._replicas.get(deployment_id, ())]
        recent = self._recent.of(everywhere)
        guests = self._guests.get(deployment_id, ())
        held = sum(self._open.held_for(each) for each in (deployment_id, *guests))
        # Asleep, a deployment cannot show what a change on its way is worth.
        is_rolling = deployment_id in self._rolling
        is_busy = held or recent.requests or recent.output_tokens or is_rolling
        return Load(
            in_flight=self._open.in_flight_on(serving),
            held=held,
            first_token_seconds=self._window.of(serving).first_token_seconds(0.95),
            is_idle=not is_busy and not self._open.in_flight_on(everywhere),
        )

    def _serving(self, deployment_id: UUID) -> list[UUID]:
        """Those that stay: what is open on others does not ask for replicas any more."""
        return [
            replica.pk
            for replica in self._replicas.get(deployment_id, ())
            if replica.wanted and replica.status == ReplicaStatus.READY
        ]


def autoscale_all(*, now: datetime) -> int:
    """One look at every deployment that scales by itself; returns how many changed."""
    live = Autoscaling.objects.filter(
        enabled=True,
        deployment__deleted_at__isnull=True,
        deployment__delete_requested_at__isnull=True,
    ).exclude(deployment__status=DeploymentStatus.FAILED)
    rows = list(live.select_related("deployment__organization"))
    if not rows:
        return 0
    sights = Sights([row.deployment_id for row in rows])
    changed = 0
    for row in rows:
        try:
            changed += follow(row, look(row, sights, now=now).decision, now=now)
        except Exception:
            logger.exception("deployment %s could not be scaled", row.deployment_id)
    return changed


def look(row: Autoscaling, sights: Sights, *, now: datetime) -> Outlook:
    """What the deployment's load asks for now. Changes nothing."""
    goal = autoscaling.goal_at(row, now=now)
    load, ready = sights.load(row.deployment_id), sights.ready(row.deployment_id)
    decision = scaling.decide(
        goal=goal,
        load=load,
        desired=row.deployment.desired_replicas,
        ready=ready,
        memory=autoscaling.memory_of(row),
        now=now.timestamp(),
    )
    return Outlook(goal=goal, load=load, ready=ready, decision=decision)


def get_outlook(row: Autoscaling, *, now: datetime) -> Outlook:
    """What the present load of one deployment asks for, for people."""
    return look(row, Sights([row.deployment_id]), now=now)


def wake(deployment_id: UUID, *, now: datetime) -> bool:
    """A request waits for a deployment that is asleep: want its first replica. False if it is not
    asleep, or does not scale by itself. An adapter wakes its host."""
    deployment_id = adapters.bearer_id(deployment_id)
    rows = Autoscaling.objects.select_related("deployment__organization")
    row = rows.filter(deployment=deployment_id, enabled=True).first()
    if row is None or row.deployment.desired_replicas:
        return False
    goal = autoscaling.goal_at(row, now=now)
    if not goal.max_replicas:  # hours in which none may be
        return False
    replicas = max(1, goal.min_replicas)
    memory = autoscaling.memory_of(row).settled(raised_at=now.timestamp())
    message = f"0 -> {replicas}: a request waits"
    decision = Decision(replicas=replicas, reason="demand", message=message, memory=memory)
    return follow(row, decision, now=now)


def follow(row: Autoscaling, decision: Decision, *, now: datetime) -> bool:
    """Write what was decided, unless somebody has changed their mind since the row was read."""
    memory, decided_on = asdict(decision.memory), row.deployment.desired_replicas
    mine = Autoscaling.objects.filter(pk=row.pk, enabled=True, updated_at=row.updated_at)
    if decision.replicas == decided_on:
        if memory != row.memory:
            mine.update(memory=memory)
        return False
    with transaction.atomic():
        deployments = Deployment.objects.select_for_update(no_key=True, of=("self",))
        deployment = deployments.select_related("organization").get(pk=row.deployment_id)
        is_stale = deployment.desired_replicas != decided_on or deployment.delete_requested_at
        if is_stale or not mine.update(memory=memory):
            return False
        services.want_replicas(
            deployment,
            decision.replicas,
            reason=decision.reason,
            message=decision.message,
            now=now,
        )
        audit.record(
            organization=deployment.organization,
            actor=audit.SYSTEM,
            action="deployment.scale",
            object_id=deployment.pk,
            object_name=deployment.name,
            before={"replicas": decided_on},
            after={"replicas": decision.replicas, "reason": decision.message},
            now=now,
        )
    return True
