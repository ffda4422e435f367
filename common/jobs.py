"""Sending Celery tasks by name: a message only makes quicker what a sweep would do anyway."""

import functools
import logging

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)


def enqueue(
    name: str,
    *,
    queue: str | None = None,
    expires_seconds: float | None = None,
    **kwargs: object,
) -> None:
    """Send task `name` after the present transaction commits; at once outside of one.

    With `expires_seconds` a message that nobody took by then is dropped: for sweeps, whose next
    round sends it again, so that none pile up for a worker that is away.

    A broker that cannot be reached is logged, not raised: the row is written, and the sweep that
    visits unsettled rows does the work a little later.
    """
    transaction.on_commit(functools.partial(_send, name, queue, expires_seconds, kwargs))


def send(name: str, *, expires_seconds: float | None = None, **kwargs: object) -> None:
    """Send task `name` now, whatever is or is not committed; touches no database."""
    _send(name, None, expires_seconds, kwargs)


def _send(name: str, queue: str | None, expires: float | None, kwargs: dict[str, object]) -> None:
    try:
        current_app.send_task(name, kwargs=kwargs, queue=queue, expires=expires, retry=False)
    except OperationalError as error:
        logger.warning("broker unreachable, %s waits for the next sweep: %s", name, error)
