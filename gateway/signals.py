"""What this process sees of each replica, counted on the way and told to Redis once a second.

Counting never waits. A bucket is always written whole, under this process's own name: writing it
twice changes nothing, and while Redis is away buckets wait here for as long as they would be kept
there. The keys and what they hold are described in deployments/signals.py.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import redis.asyncio
from redis.exceptions import RedisError

from deployments.signals import (
    BUCKET_SECONDS,
    GATEWAYS,
    KEPT_SECONDS,
    NOW_SECONDS,
    Now,
    Totals,
    bucket_key,
    bucket_of,
    now_key,
)
from gateway.counting import StreamedAnswer
from gateway.upstream import TimedOut, UpstreamError

logger = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
LAST_CHANCE_SECONDS = 2.0


class Flight:
    """One request on one replica, from its sending to the end of its answer."""

    __slots__ = (
        "answer",
        "began",
        "counted_tokens",
        "first_byte",
        "has_failed",
        "has_timed_out",
        "input_tokens",
        "is_streamed",
        "output_tokens",
        "replica_id",
    )

    def __init__(self, replica_id: str, *, is_streamed: bool, began: float) -> None:
        self.replica_id = replica_id
        self.is_streamed = is_streamed
        self.began = began
        self.first_byte: float | None = None
        self.has_failed = False  # by the engine's doing
        self.has_timed_out = False
        self.input_tokens = 0
        self.output_tokens = 0  # known in the end; on the way, the stream's own count tells
        self.answer: StreamedAnswer | None = None
        self.counted_tokens = 0

    def fail(self, error: UpstreamError) -> None:
        """The engine did not answer, or not to the end."""
        self.has_failed = True
        self.has_timed_out = isinstance(error, TimedOut)


class Signals:
    """`open` before a request is sent, `close` after it; `run` writes. Others set what they know:
    `held` tells how many requests wait, by deployment id; `silent` for how many seconds replicas
    have sent nothing, by their id."""

    def __init__(self, redis_url: str) -> None:
        self.gateway = str(uuid4())
        self.held: Callable[[], dict[str, int]] = dict
        self.silent: Callable[[], dict[str, float]] = dict
        self._redis_url = redis_url
        self._flights: set[Flight] = set()
        self._buckets: dict[int, dict[str, Totals]] = {}
        self._present: dict[str, Totals] = {}
        self._until = 0.0  # when the present bucket ends
        self._unwritten: set[int] = set()

    def open(self, replica_id: str, *, is_streamed: bool) -> Flight:
        flight = Flight(replica_id, is_streamed=is_streamed, began=time.monotonic())
        self._flights.add(flight)
        return flight

    def close(self, flight: Flight) -> None:
        self._flights.discard(flight)
        totals = self._totals(flight.replica_id)
        totals.requests += 1
        totals.errors += flight.has_failed
        totals.timeouts += flight.has_timed_out
        totals.input_tokens += flight.input_tokens
        tokens = max(flight.output_tokens, flight.counted_tokens)
        totals.output_tokens += tokens - flight.counted_tokens
        if flight.first_byte is None or not flight.is_streamed or flight.has_failed:
            return
        totals.count_first_token(flight.first_byte - flight.began)
        if tokens > 1:
            totals.decode_seconds += time.monotonic() - flight.first_byte
            totals.decode_steps += tokens - 1

    async def run(self) -> None:
        """Write until cancelled, then once more; nothing of this process is in flight then."""
        client = redis.asyncio.Redis.from_url(
            self._redis_url, socket_timeout=2, socket_connect_timeout=2
        )
        is_away = False
        try:
            while True:
                try:
                    await self.write(client)
                    is_away = False
                except (RedisError, OSError) as error:
                    if not is_away:
                        logger.warning("Redis takes no signals, they wait: %s", error)
                    is_away = True
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            with contextlib.suppress(TimeoutError, RedisError, OSError):
                async with asyncio.timeout(LAST_CHANCE_SECONDS):
                    await self.write(client)
                    await client.delete(now_key(self.gateway))
                    await client.aclose()

    async def write(self, client: redis.asyncio.Redis) -> None:
        """Everything that Redis has not been told yet, and what is open now. Raises RedisError."""
        at = time.time()
        self._count_passing()
        unwritten, self._unwritten = self._unwritten, set()
        pipeline = client.pipeline(transaction=False)
        for bucket in unwritten:
            fields: Any = {
                f"{replica_id}/{self.gateway}": totals.encode()
                for replica_id, totals in self._buckets[bucket].items()
            }
            if fields:
                pipeline.hset(bucket_key(bucket), mapping=fields)
                pipeline.expireat(bucket_key(bucket), bucket + KEPT_SECONDS + BUCKET_SECONDS)
        now = Now(
            in_flight=dict(Counter(flight.replica_id for flight in self._flights)),
            held=self.held(),
            silent=self.silent(),
        )
        pipeline.set(now_key(self.gateway), now.encode(), ex=NOW_SECONDS)
        pipeline.zadd(GATEWAYS, {self.gateway: at})
        pipeline.zremrangebyscore(GATEWAYS, "-inf", at - KEPT_SECONDS - BUCKET_SECONDS)
        try:
            await pipeline.execute()
        except BaseException:
            self._unwritten |= unwritten  # of buckets that are still kept
            raise
        finally:
            self._forget(at)

    def _count_passing(self) -> None:
        """Tokens of streams that are still open count as they pass."""
        for flight in self._flights:
            if flight.answer is not None:
                passed = flight.answer.tokens_passed
                if passed > flight.counted_tokens:
                    totals = self._totals(flight.replica_id)
                    totals.output_tokens += passed - flight.counted_tokens
                    flight.counted_tokens = passed

    def _totals(self, replica_id: str) -> Totals:
        at = time.time()
        if not self._until - BUCKET_SECONDS <= at < self._until:
            bucket = bucket_of(at)
            self._present = self._buckets.setdefault(bucket, {})
            self._until = bucket + BUCKET_SECONDS
        self._unwritten.add(int(self._until) - BUCKET_SECONDS)
        totals = self._present.get(replica_id)
        if totals is None:
            totals = self._present[replica_id] = Totals()
        return totals

    def _forget(self, at: float) -> None:
        """Buckets that are written and over, and those that nobody would read any more."""
        present = bucket_of(at)
        for bucket in list(self._buckets):
            is_done = bucket < present and bucket not in self._unwritten
            if is_done or bucket < at - KEPT_SECONDS:
                del self._buckets[bucket]
                self._unwritten.discard(bucket)
        if present not in self._buckets:
            self._until = 0.0
