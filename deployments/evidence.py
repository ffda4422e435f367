"""What gateways measured on both sides of a rollout. Read with no transaction open."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Q

from deployments import signals
from deployments.choices import ROLLOUT_ACTIVE
from deployments.models import Replica, Rollout
from planner.rollout import Traffic

FIRST_TOKEN_SHARE = 0.9  # p90

ReadWindow = Callable[..., signals.Window | None]


@dataclass(frozen=True)
class Evidence:
    """Of one rollout at one step. `is_measured` is False where nobody could be asked."""

    rollout_id: UUID
    old: Traffic
    new: Traffic
    is_measured: bool = True


def gather(
    deployment_id: UUID, *, now: datetime, read_window: ReadWindow = signals.read_window
) -> Evidence | None:
    """What both sides did; None where no rollout moves traffic.

    The new side is judged by what it did in its present step, and by all it did where the step
    has seen too little; the old side, which changes less and gets fewer requests at each step, by
    all it did since the rollout began. Gateways keep a quarter of an hour.
    """
    rollout = Rollout.objects.filter(
        deployment=deployment_id, status__in=ROLLOUT_ACTIVE, step_entered_at__isnull=False
    ).first()
    if rollout is None or rollout.step_entered_at is None or rollout.began_at is None:
        return None
    old_ids, new_ids = _replica_ids(rollout)
    whole = _read(read_window, old_ids | new_ids, since=rollout.began_at, now=now)
    step = _read(read_window, new_ids, since=rollout.step_entered_at, now=now)
    if whole is None or step is None:
        return Evidence(rollout.pk, Traffic(), Traffic(), is_measured=False)
    new = _traffic(step, new_ids)
    if new.requests < rollout.plan["min_requests"]:
        new = _traffic(whole, new_ids)
    return Evidence(rollout.pk, old=_traffic(whole, old_ids), new=new)


def _replica_ids(rollout: Rollout) -> tuple[set[UUID], set[UUID]]:
    """Of the replicas that lived since it began: what ended badly counts too."""
    lived = Q(ended_at__isnull=True) | Q(ended_at__gte=rollout.began_at)
    rows = Replica.objects.filter(lived, deployment=rollout.deployment_id)
    found = list(rows.values_list("variant_id", "pk"))
    old = {pk for variant, pk in found if variant == rollout.from_variant_id}
    new = {pk for variant, pk in found if variant == rollout.to_variant_id}
    return old, new


def _read(
    read_window: ReadWindow, replica_ids: Iterable[UUID], *, since: datetime, now: datetime
) -> signals.Window | None:
    seconds = max(0.0, (now - since).total_seconds())
    return read_window(seconds=seconds, replica_ids=replica_ids, at=now.timestamp())


def _traffic(window: signals.Window, replica_ids: Iterable[UUID]) -> Traffic:
    totals = window.of(replica_ids)
    return Traffic(
        requests=totals.requests,
        errors=totals.errors,
        first_tokens=sum(totals.first_tokens.values()),
        first_token_seconds=totals.first_token_seconds(FIRST_TOKEN_SHARE),
    )
