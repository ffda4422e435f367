"""What people may want of autoscaling, and the values that the planner decides by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, time
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from django.db import transaction

from accounts import audit
from accounts.models import Organization
from common.errors import InvalidInput, NotFound
from deployments import notify
from deployments.models import Autoscaling
from deployments.services import guests
from deployments.services.checks import MAX_REPLICAS
from deployments.services.deployments import DeploymentIsDeleting, take
from planner.scaling import Goal, Memory
from planner.schedule import DAYS, Hours, limits_at

MOST_HOURS = 50
LIMITS = {
    "min_replicas": (0, MAX_REPLICAS),
    "max_replicas": (1, MAX_REPLICAS),
    "target_concurrency": (0.1, 4096),
    "target_first_token_milliseconds": (1, 3_600_000),
    "scale_down_after_seconds": (0, 86_400),
    "idle_seconds": (10, 30 * 86_400),
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a deployment should scale, as the row keeps it. `schedule`: a list of
    {"days": ["mon", ...], "from": "08:00", "to": "18:00", "min_replicas"?, "max_replicas"?}."""

    enabled: bool = True
    min_replicas: int = 1
    max_replicas: int = 4
    target_concurrency: float = 8.0
    target_first_token_milliseconds: int | None = None
    scale_down_after_seconds: int = 300
    idle_seconds: int | None = 900
    time_zone: str = ""
    schedule: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def check(self) -> None:
        """Raises InvalidInput by field."""
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidInput(
                    f"{value} is out of range.", field=name, remedy=f"Use {low} to {high}."
                )
        if self.max_replicas < self.min_replicas:
            raise InvalidInput(
                "The maximum is less than the minimum.",
                field="max_replicas",
                remedy=f"Use {self.min_replicas} or more.",
            )
        if self.time_zone and self.time_zone not in available_timezones():
            raise InvalidInput(
                f"{self.time_zone} is no IANA time zone.",
                field="time_zone",
                remedy="Write it like Asia/Shanghai, or leave it out for the organization's.",
            )
        read_schedule(self.schedule)


@transaction.atomic
def set_autoscaling(
    *,
    organization: Organization,
    deployment_id: UUID,
    wanted: Wanted,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Autoscaling:
    """Let the number of replicas follow the load from now on; what was learned begins anew.

    Raises NotFound, InvalidInput by field, DeploymentIsDeleting, ServedByHost.
    """
    wanted.check()
    deployment = take(organization, deployment_id)
    if deployment.delete_requested_at is not None:
        raise DeploymentIsDeleting(f"{deployment} is being deleted.")
    guests.refuse_for_guest(deployment)
    row = Autoscaling.objects.filter(deployment=deployment).first()
    before = _told(row) if row is not None else None
    values = asdict(wanted) | {"schedule": [dict(each) for each in wanted.schedule]}
    row, _ = Autoscaling.objects.update_or_create(
        deployment=deployment, defaults=values | {"memory": {}, "updated_at": now}
    )
    audit.record(
        organization=organization,
        actor=actor,
        action="deployment.autoscaling_set",
        object_id=deployment.pk,
        object_name=deployment.name,
        before=before,
        after=_told(row),
        now=now,
    )
    notify.routes_changed()
    return row


@transaction.atomic
def remove_autoscaling(
    *,
    organization: Organization,
    deployment_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> None:
    """The present number of replicas stays. Raises NotFound."""
    deployment = take(organization, deployment_id)
    row = get_autoscaling(organization, deployment_id)
    before = _told(row)
    row.delete()
    audit.record(
        organization=organization,
        actor=actor,
        action="deployment.autoscaling_removed",
        object_id=deployment.pk,
        object_name=deployment.name,
        before=before,
        now=now,
    )
    notify.routes_changed()


def get_autoscaling(organization: Organization, deployment_id: UUID) -> Autoscaling:
    """Raises NotFound: no such deployment, or none that was ever told to scale."""
    rows = Autoscaling.objects.select_related("deployment__organization")
    row = rows.filter(deployment=deployment_id, deployment__organization=organization).first()
    if row is None:
        raise NotFound("This deployment has no autoscaling.", remedy="PUT it first.")
    return row


def read_schedule(values: Sequence[Mapping[str, Any]]) -> list[Hours]:
    """The schedule's hours. Raises InvalidInput by field."""
    if len(values) > MOST_HOURS:
        raise InvalidInput(f"At most {MOST_HOURS} hours may be named.", field="schedule")
    return [_read_hours(each, f"schedule.{index}") for index, each in enumerate(values)]


def goal_at(row: Autoscaling, *, now: datetime) -> Goal:
    """What the row wants at this moment by its own clock, or else its organization's."""
    zone = ZoneInfo(row.time_zone or row.deployment.organization.time_zone)
    least, most = limits_at(
        read_schedule(row.schedule),
        local=now.astimezone(zone),
        min_replicas=row.min_replicas,
        max_replicas=row.max_replicas,
    )
    target = row.target_first_token_milliseconds
    return Goal(
        min_replicas=least,
        max_replicas=most,
        target_concurrency=row.target_concurrency,
        target_first_token_seconds=target / 1000 if target is not None else None,
        scale_down_after_seconds=row.scale_down_after_seconds,
        idle_seconds=row.idle_seconds,
    )


def memory_of(row: Autoscaling) -> Memory:
    return Memory(**row.memory)


def _read_hours(value: Mapping[str, Any], where: str) -> Hours:
    known = {"days", "from", "to", "min_replicas", "max_replicas"}
    if not isinstance(value, Mapping) or not set(value) <= known:
        raise InvalidInput(f"Use {', '.join(sorted(known))}.", field=where)
    days = value.get("days", list(DAYS))
    if not isinstance(days, list) or not days or not set(map(str, days)) <= set(DAYS):
        raise InvalidInput(
            "These are no days.", field=f"{where}.days", remedy=f"Use {', '.join(DAYS)}."
        )
    limits = {name: value.get(name) for name in ("min_replicas", "max_replicas")}
    for name, limit in limits.items():
        is_sound = isinstance(limit, int) and not isinstance(limit, bool)
        if limit is not None and not (is_sound and 0 <= limit <= MAX_REPLICAS):
            raise InvalidInput(
                f"{limit!r} is out of range.",
                field=f"{where}.{name}",
                remedy=f"Use 0 to {MAX_REPLICAS}.",
            )
    return Hours(
        days=frozenset(DAYS.index(day) for day in days),
        start=_read_time(value.get("from", "00:00"), f"{where}.from"),
        end=_read_time(value.get("to", "00:00"), f"{where}.to"),
        min_replicas=limits["min_replicas"],
        max_replicas=limits["max_replicas"],
    )


def _read_time(value: object, field_name: str) -> time:
    try:
        return time.fromisoformat(str(value)).replace(tzinfo=None)
    except ValueError:
        raise InvalidInput(
            f"{value!r} is no time of day.", field=field_name, remedy="Write it like 08:30."
        ) from None


def _told(row: Autoscaling) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Wanted.__dataclass_fields__}
