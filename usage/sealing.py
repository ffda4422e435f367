"""Which hours are sealed: their records never change again."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from common import locks
from usage.models import Seal

HOUR = timedelta(hours=1)
SEALED_AFTER = timedelta(hours=2)  # after an hour's end; events wait for less than that
CLOCKS_DIFFER = timedelta(minutes=30)  # of two machines, at most


def hour_of(at: datetime) -> datetime:
    """The start of the hour, UTC."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def due_until(now: datetime) -> datetime:
    """All hours that begin before this one's start are old enough to be sealed."""
    return hour_of(now) - SEALED_AFTER


def may_be_sealed(at: datetime, *, now: datetime) -> bool:
    """False if nobody can have sealed the hour of `at`, even by a clock that is ahead."""
    return at < due_until(now + CLOCKS_DIFFER)


def sealed_until(organization_id: UUID) -> datetime | None:
    """The start of the first open hour; None if nothing was ever sealed."""
    row = Seal.objects.filter(organization=organization_id).first()
    return row.sealed_until if row else None


def lock(organization_id: UUID) -> None:
    """Nobody else rolls up or seals hours of the organization before the transaction ends."""
    locks.lock_until_commit(f"usage.roll_up.{organization_id}")


def seal(organization_id: UUID, *, until: datetime) -> None:
    """Seal all hours before `until`. The caller holds the lock."""
    Seal.objects.update_or_create(organization_id=organization_id, defaults={"sealed_until": until})
