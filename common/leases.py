"""Leases: one worker at a time on a row, for work too slow to hold a database lock over.

Take a lease, do the slow thing with no transaction open, then write under `finish`, which refuses
if the lease has since run out and somebody else took the row.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID, uuid4

from django.db import Error, connection, models, transaction
from django.db.models import Q
from django.utils import timezone

logger = logging.getLogger(__name__)

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
def kept(leased: Leased, *, seconds: float) -> Iterator[None]:
    """Extend a lease of `seconds` from a thread for as long as the block runs.

    For work of unknown length under a short lease: if this process is killed, the row is free
    again after `seconds`, however long the work would have taken.
    """
    over = threading.Event()
    thread = threading.Thread(target=_extend, args=(leased, seconds, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _extend(leased: Leased, seconds: float, over: threading.Event) -> None:
    rows = type(leased)._default_manager.filter(pk=leased.pk, lease_token=leased.lease_token)
    try:
        while not over.wait(seconds / 3):
            try:
                rows.update(leased_until=timezone.now() + timedelta(seconds=seconds))
            except Error:
                logger.warning("the lease on %s could not be extended", leased, exc_info=True)
                connection.close()  # the next try gets a new one
    finally:
        connection.close()  # this thread's own


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


def extend(leased: Leased, *, now: datetime, seconds: float = DEFAULT_SECONDS) -> None:
    """Hold the lease longer. Raises LeaseLost if another worker has the row."""
    rows = type(leased)._default_manager.filter(pk=leased.pk, lease_token=leased.lease_token)
    if not rows.update(leased_until=now + timedelta(seconds=seconds)):
        raise LeaseLost(f"{leased} was taken over")
