"""Leases: one worker at a time on a row, for work too slow to hold a database lock over.

Take a lease, do the slow thing with no transaction open, then write under `finish`, which refuses
if the lease has since run out and somebody else took the row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID, uuid4

from django.db import models, transaction
from django.db.models import Q

DEFAULT_SECONDS = 60.0


class LeaseLost(Exception):
    """The lease ran out and another worker has the row: what was done must not be written."""


class Leased(models.Model):
    """Mixin for rows that are worked on under a lease."""

    lease_token = models.UUIDField(null=True, blank=True, editable=False)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True


L = TypeVar("L", bound=Leased)


def take(
    rows: models.QuerySet[L], pk: UUID, *, now: datetime, seconds: float = DEFAULT_SECONDS
) -> L | None:
    """The row with a lease on it, or None if it is not among `rows` or another holds it."""
    token = uuid4()
    free = Q(leased_until__isnull=True) | Q(leased_until__lt=now)
    taken = rows.filter(free, pk=pk).update(
        lease_token=token, leased_until=now + timedelta(seconds=seconds)
    )
    if not taken:
        return None
    return rows.filter(pk=pk, lease_token=token).first()


@contextmanager
def finish(leased: L) -> Iterator[L]:
    """A transaction on the row as it is now, locked; ends the lease. Raises LeaseLost."""
    model = type(leased)
    with transaction.atomic():
        current = model._default_manager.select_for_update(no_key=True).get(pk=leased.pk)
        if current.lease_token != leased.lease_token or leased.lease_token is None:
            raise LeaseLost(f"{leased} was taken over")
        yield current
        model._default_manager.filter(pk=leased.pk).update(lease_token=None, leased_until=None)


def release(leased: Leased) -> None:
    """Give the lease back without writing anything else."""
    type(leased)._default_manager.filter(pk=leased.pk, lease_token=leased.lease_token).update(
        lease_token=None, leased_until=None
    )
