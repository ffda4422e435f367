"""Notices over Redis: "look again", said to every process that keeps a copy of something.

A notice may be lost. Whoever listens also looks again by itself after a while.
"""

import functools
import logging

import redis
from django.conf import settings
from django.db import transaction

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1.0


def publish(channel: str, text: str = "") -> None:
    """Say `text` on `channel` after the present transaction commits; at once outside of one."""
    transaction.on_commit(functools.partial(_send, channel, text))


def _send(channel: str, text: str) -> None:
    try:
        _client().publish(channel, text)
    except redis.RedisError as error:
        logger.warning("no notice on %s, listeners find out by themselves: %s", channel, error)


@functools.cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )
