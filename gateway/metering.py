"""Every request that an engine answered, or began to, becomes one usage event.

Events wait in this process, bounded, until Redis has taken them; told twice, one counts once.
"""

import asyncio
import logging
from collections import deque

import redis.asyncio
from redis.exceptions import RedisError

from usage import stream

logger = logging.getLogger(__name__)

MOST_WAITING = 100_000
BATCH = 200  # events an entry of the stream
GATHER_SECONDS = 0.002  # what comes within it shares an entry; writing one costs 0.1 ms of a core
BUSY = 8  # events gathered in that time: where so many come, more are gathered
BUSY_GATHER_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 2.0
LAST_CHANCE_SECONDS = 5.0
TOKENS_PER_BYTE = 0.25  # of a request body, until the model's engine has counted some


class Meter:
    """`record` never waits; `run` moves what was recorded to Redis."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._waiting: deque[stream.Event] = deque()
        self._recorded = asyncio.Event()
        self._density: dict[str, float] = {}
        self.lost = 0  # events that found no room

    def record(self, event: stream.Event) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self.lost += 1
            if self.lost == 1 or self.lost % 1000 == 0:
                logger.error("%s usage events lost: Redis has been away for too long", self.lost)
            return
        self._waiting.append(event)
        self._recorded.set()

    def learn(self, model_name: str, *, body_bytes: int, input_tokens: int) -> None:
        """Remember how many tokens a byte of this model's requests is worth (a moving average)."""
        if body_bytes:
            seen = input_tokens / body_bytes
            known = self._density.get(model_name, seen)
            self._density[model_name] = known + (seen - known) * 0.1

    def estimate_input_tokens(self, model_name: str, *, body_bytes: int) -> int:
        """For an answer that ended before the engine told: by the model's earlier requests."""
        return round(body_bytes * self._density.get(model_name, TOKENS_PER_BYTE))

    async def run(self) -> None:
        """Write events until cancelled, then once more what is left, within a few seconds."""
        client = redis.asyncio.Redis.from_url(self._redis_url, socket_timeout=5)
        try:
            while True:
                await self._recorded.wait()
                await asyncio.sleep(GATHER_SECONDS)
                if BUSY <= len(self._waiting) < BATCH:
                    await asyncio.sleep(BUSY_GATHER_SECONDS)
                self._recorded.clear()
                await self._write_all(client)
        finally:
            try:
                async with asyncio.timeout(LAST_CHANCE_SECONDS):
                    await self._write_all(client)
                await client.aclose()
            except (TimeoutError, RedisError, OSError):
                logger.error("%s usage events lost: Redis is away", len(self._waiting))

    async def _write_all(self, client: redis.asyncio.Redis) -> None:
        pause = 0.05
        while self._waiting:
            batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            try:
                await client.xadd(stream.EVENTS, stream.encode(batch))  # type: ignore[arg-type]
            except (RedisError, OSError) as error:
                logger.warning("Redis takes no usage, %s wait: %s", len(self._waiting), error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            for _ in batch:
                self._waiting.popleft()
