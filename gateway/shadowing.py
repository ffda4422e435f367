"""A copy of some requests to a candidate, whose answers are kept beside those that clients got.

Nobody waits for a candidate: its request is sent in the background, few at a time, its answer is
read by nobody but this, and it makes no usage event. Both answers go to Redis, where control takes
them into rows (deployments/shadow_answers.py). Comparisons are for people to look at: what does not
fit is left out, and while Redis is away the oldest are forgotten.
"""

import asyncio
import logging
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson
import redis.asyncio
from redis.exceptions import RedisError

from deployments.shadows import FIELD, MOST_ENTRIES, STREAM
from gateway import upstream
from gateway.counting import StreamedAnswer, WholeAnswer
from gateway.directory import Replica, Route, Shadow, Target
from gateway.routing import Router
from usage.stream import Event

if TYPE_CHECKING:
    from gateway.proxy import Inbound

logger = logging.getLogger(__name__)

ENDPOINTS = {"chat/completions", "completions"}
MOST_AT_ONCE = 16  # requests to candidates, of this process
MOST_BYTES = 64 << 10  # kept of a request and of each answer
MOST_WAITING = 500
LONGEST_SECONDS = 300.0
EVERY_SECONDS = 0.5


class Comparison:
    """One request and both answers to it. The client's side tells `take`, `ended` and `leave`."""

    def __init__(self, shadows: "Shadows", inbound: "Inbound", shadow: Shadow) -> None:
        self._shadows = shadows
        self._size = 0
        self._pieces: list[bytes] = []
        self._open_sides = 2
        self.body = inbound.call.body
        self.entry: dict[str, Any] = {
            "request_id": inbound.usage_id,
            "organization_id": inbound.key.organization_id,
            "route_name": inbound.route.name,
            "endpoint": inbound.call.endpoint,
            "is_streamed": inbound.call.stream,
            "candidate_name": shadow.target.deployment_name,
        }

    def take(self, data: bytes) -> None:
        """A piece of the answer that the client gets."""
        if self._size < MOST_BYTES:
            self._pieces.append(data)
        self._size += len(data)

    def ended(self, event: Event) -> None:
        """How the client's answer went."""
        self.entry["at"] = event["at"]
        self.entry["primary_name"] = event["deployment_name"]
        self.entry["primary"] = side(
            event["status_code"],
            self._pieces,
            output_tokens=event["output_tokens"],
            first_token_milliseconds=event["first_token_milliseconds"],
            duration_milliseconds=event["duration_milliseconds"],
        )

    def leave(self) -> None:
        """One side is over."""
        self._open_sides -= 1
        if not self._open_sides and {"primary", "candidate"} <= self.entry.keys():
            self._shadows.keep(self)


class Shadows:
    """`begin` for each request of a route that has a shadow; `run` writes what was compared."""

    def __init__(self, router: Router, pool: upstream.Pool, redis_url: str | None = None) -> None:
        self._router = router
        self._pool = pool
        self._redis_url = redis_url
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._is_there = asyncio.Event()

    def begin(self, inbound: "Inbound") -> Comparison | None:
        """Send a copy if this request is one of the share and there is room for it."""
        shadow, call = inbound.route.shadow, inbound.call
        if (
            shadow is None
            or self._redis_url is None
            or call.endpoint not in ENDPOINTS
            or len(self._tasks) >= MOST_AT_ONCE
            or random.random() >= shadow.share  # noqa: S311
        ):
            return None
        alone = Route(inbound.route.name, inbound.route.organization_id, 0, (shadow.target,))
        choice = self._router.choose(alone, affinity=call.affinity)
        if choice is None:
            return None
        comparison = Comparison(self, inbound, shadow)
        task = asyncio.ensure_future(self._ask(comparison, inbound, choice.replica, shadow.target))
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return comparison

    def keep(self, comparison: Comparison) -> None:
        body = comparison.body
        comparison.entry["request"] = body[:MOST_BYTES].decode(errors="replace")
        self._waiting.append(comparison.entry)
        self._is_there.set()

    async def run(self) -> None:
        """Write until cancelled."""
        if self._redis_url is None:
            return
        client = redis.asyncio.Redis.from_url(self._redis_url, socket_timeout=5)
        try:
            while True:
                await self._is_there.wait()
                self._is_there.clear()
                while self._waiting:
                    await self._write(client)
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()
            await client.aclose()

    async def _write(self, client: redis.asyncio.Redis) -> None:
        entry = self._waiting.popleft()
        try:
            await client.xadd(
                STREAM, {FIELD: orjson.dumps(entry)}, maxlen=MOST_ENTRIES, approximate=True
            )
        except (RedisError, OSError) as error:
            logger.warning("a comparison is lost, Redis is away: %s", error)
            await asyncio.sleep(EVERY_SECONDS)

    async def _ask(
        self, comparison: Comparison, inbound: "Inbound", replica: Replica, target: Target
    ) -> None:
        call = inbound.call
        exchange = self._pool.exchange((replica.host, replica.port))
        answer: StreamedAnswer | WholeAnswer = (
            StreamedAnswer(strips_usage=True) if call.stream else WholeAnswer()
        )
        began, first, pieces, size, status = time.monotonic(), None, list[bytes](), 0, 0
        is_trial = self._router.opened(replica.id)
        try:
            request = upstream.build_request(
                path=f"{replica.base_path}/{call.endpoint}",
                host=(replica.host, replica.port),
                token=replica.token,
                request_id=inbound.usage_id,
                body=call.body_for(target.served_model_name),
            )
            async with asyncio.timeout(LONGEST_SECONDS):
                await exchange.start(request)
                while data := await exchange.read():
                    first = first or time.monotonic()
                    passed = answer.take(data)
                    if size < MOST_BYTES:
                        pieces.append(passed)
                    size += len(passed)
            status = exchange.status
            self._router.answered(replica.id)
        except (upstream.UpstreamError, TimeoutError) as error:
            logger.info("candidate %s did not answer: %r", target.deployment_name, error)
            if isinstance(error, upstream.CannotConnect):
                self._router.failed(replica.id)
        finally:
            exchange.finish()
            self._router.closed(replica.id, is_trial=is_trial)
        usage = answer.usage()
        comparison.entry["candidate"] = side(
            status,
            pieces,
            output_tokens=usage.output_tokens if usage else max(0, answer.tokens_passed),
            first_token_milliseconds=(first - began) * 1000 if first else None,
            duration_milliseconds=(time.monotonic() - began) * 1000,
        )
        comparison.leave()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a comparison failed: %r", task.exception())


def side(status: int, pieces: list[bytes], **measures: float | None) -> dict[str, Any]:
    """One answer as it is kept. `status` 0: none came."""
    body = b"".join(pieces)[:MOST_BYTES].decode(errors="replace")
    return {"status": status, "body": body, **measures}
