"""Responses that are kept, in Redis: each organization's own, bounded, for thirty days."""

import logging
import time
from dataclasses import dataclass
from typing import Any

import orjson
import redis.asyncio
from redis.exceptions import RedisError

from engines.protocol.errors import ApiError
from gateway import errors

logger = logging.getLogger(__name__)

KEPT_SECONDS = 30 * 86_400
MOST_BYTES = 1 << 20  # of one, with the conversation before it
MOST_KEPT = 10_000  # for each organization; the oldest make room
PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Kept:
    """`earlier` is the conversation before this response's own `items`."""

    response: dict[str, Any]
    items: list[dict[str, Any]]
    earlier: list[dict[str, Any]]


class ResponseStore:
    """Each method but `keep` raises ApiError (503) while Redis is away."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            redis_url, socket_timeout=PATIENCE_SECONDS, socket_connect_timeout=PATIENCE_SECONDS
        )

    async def keep(self, organization_id: str, kept: Kept) -> bool:
        """False where it is not kept: too large, or Redis is away. Nobody's answer fails by it."""
        value = orjson.dumps([kept.response, kept.items, kept.earlier])
        if len(value) > MOST_BYTES:
            return False
        name = kept.response["id"]
        index = _index(organization_id)
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(_key(organization_id, name), value, ex=KEPT_SECONDS)
                pipe.zadd(index, {name: time.time()})
                pipe.expire(index, KEPT_SECONDS)
                pipe.zremrangebyscore(index, "-inf", time.time() - KEPT_SECONDS)
                pipe.zrange(index, 0, -MOST_KEPT - 1)
                oldest = (await pipe.execute())[-1]
            if oldest:
                keys = [_key(organization_id, each.decode()) for each in oldest]
                await self._redis.delete(*keys)
                await self._redis.zrem(index, *oldest)
        except (RedisError, OSError) as error:
            logger.warning("response %s is not kept: %s", name, error)
            return False
        return True

    async def find(self, organization_id: str, name: str) -> Kept | None:
        try:
            value = await self._redis.get(_key(organization_id, name))
        except (RedisError, OSError) as error:
            raise _away(error) from error
        return Kept(*orjson.loads(value)) if value is not None else None

    async def forget(self, organization_id: str, name: str) -> None:
        try:
            await self._redis.delete(_key(organization_id, name))
            await self._redis.zrem(_index(organization_id), name)
        except (RedisError, OSError) as error:
            raise _away(error) from error

    async def close(self) -> None:
        await self._redis.aclose()


def _key(organization_id: str, name: str) -> str:
    return f"responses:{organization_id}:{name}"


def _index(organization_id: str) -> str:
    return f"responses:{organization_id}"


def _away(error: Exception) -> ApiError:
    logger.warning("stored responses cannot be read: %s", error)
    message = "Stored responses cannot be read now. Try again in a moment."
    return errors.unavailable(message, code="store_unavailable")
