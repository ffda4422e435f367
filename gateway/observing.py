"""What operators see of requests: numbers (measures.py), and one line of JSON for each.

Counting never waits, and nothing here ever holds a prompt or an answer.
"""

import asyncio
import functools
import hmac
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
import redis.asyncio
from redis.exceptions import RedisError

from gateway.measures import Measures, render
from usage import stream

logger = logging.getLogger(__name__)

TELL_SECONDS = 5.0
LINES_SECONDS = 0.2
MOST_LINES = 100_000  # that wait for a slow disk; the rest is dropped, and counted
LINE_NAMES = (
    "key_id",
    "key_name",
    "model_name",
    "deployment_name",
    "replica_id",
    "revision_id",
    "endpoint",
    "status_code",
    "is_streamed",
    "is_interrupted",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "first_token_milliseconds",
    "duration_milliseconds",
)


class Lines:
    """One line of JSON for each request, written in batches by a thread. `target`: a binary stream,
    or None for no lines."""

    def __init__(self, target: BinaryIO | None) -> None:
        self._target = target
        self._waiting: list[bytes] = []
        self.lost = 0

    def add(self, values: dict[str, Any]) -> None:
        if self._target is None:
            return
        if len(self._waiting) >= MOST_LINES:
            self.lost += 1
            return
        self._waiting.append(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))

    async def flush(self) -> None:
        """Write what waits. A disk that takes none is logged, not raised."""
        lines, self._waiting = self._waiting, []
        if not lines or self._target is None:
            return
        write = functools.partial(_write, self._target, b"".join(lines))
        try:
            await asyncio.get_running_loop().run_in_executor(None, write)
        except (OSError, ValueError) as error:
            self.lost += len(lines)
            logger.error("%s lines about requests are lost: %s", self.lost, error)


class Observer:
    """`answered` and `refused` are called once for each request; `run` tells what they counted."""

    def __init__(
        self, redis_url: str | None = None, *, lines: Lines | None = None, token: str = ""
    ) -> None:
        self.measures = Measures()
        self.lines = lines or Lines(None)
        self._redis_url = redis_url
        self._token = token
        self._is_away = False

    def answered(
        self,
        event: stream.Event,
        *,
        request_id: str,
        organization: str,
        held_seconds: float | None,
    ) -> None:
        """A request that an engine answered or began to answer."""
        model, status = event["model_name"], str(event["status_code"])
        duration = (event["duration_milliseconds"] or 0.0) / 1000
        first, inter = None, None
        if event["is_streamed"] and event["first_token_milliseconds"] is not None:
            first = event["first_token_milliseconds"] / 1000
            if event["output_tokens"] > 1:
                inter = max(0.0, duration - first) / (event["output_tokens"] - 1)
        self.measures.count(
            (organization, model, status),
            request=duration,
            time_to_first_token=first,
            inter_token=inter,
            queue=held_seconds,
        )
        for direction, count in (
            ("input", event["input_tokens"]),
            ("output", event["output_tokens"]),
            ("cached_input", event["cached_input_tokens"]),
        ):
            if count:
                self.measures.count_tokens((organization, model, direction), count)
        values = cast("Mapping[str, Any]", event)
        self.lines.add(
            {
                "at": event["at"],
                "request_id": request_id,
                "organization": organization,
                **{name: values[name] for name in LINE_NAMES},
                "held_milliseconds": held_seconds * 1000 if held_seconds else 0,
            }
        )

    def refused(
        self,
        *,
        request_id: str,
        method: str,
        path: str,
        status: int,
        code: str,
        seconds: float,
        organization: str = "",
        key_id: str | None = None,
    ) -> None:
        """A request that no engine answered: refused, looked up, or left by its client."""
        self.measures.count((organization, "", str(status)), request=seconds)
        self.lines.add(
            {
                "at": time.time(),
                "request_id": request_id,
                "organization": organization,
                "key_id": key_id,
                "endpoint": f"{method} {path[:200]}",
                "status_code": status,
                "code": code,
                "duration_milliseconds": seconds * 1000,
            }
        )

    def may_read(self, authorization: bytes | None) -> bool:
        """Whether this header opens the numbers; without a configured token nothing does."""
        wanted = f"Bearer {self._token}".encode()
        return bool(self._token) and hmac.compare_digest(authorization or b"", wanted)

    async def render(self) -> bytes:
        """All processes' numbers in Prometheus' text format, version 0.0.4."""
        if self._redis_url is None:
            return render({self.measures.process: self.measures.told()})
        async with self._client(self._redis_url) as client:
            return render(await self.measures.read_all(client))

    async def run(self) -> None:
        """Write lines and tell numbers until cancelled, then once more."""
        told_at = 0.0
        try:
            while True:
                await asyncio.sleep(LINES_SECONDS)
                await self.lines.flush()
                if time.monotonic() - told_at > TELL_SECONDS:
                    told_at = time.monotonic()
                    await self._tell()
        finally:
            await self.lines.flush()

    async def _tell(self) -> None:
        if self._redis_url is None:
            return
        try:
            async with self._client(self._redis_url) as client:
                await self.measures.tell(client)
            self._is_away = False
        except (RedisError, OSError) as error:
            if not self._is_away:
                logger.warning("Redis takes no numbers, they wait: %s", error)
            self._is_away = True

    def _client(self, url: str) -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)


def open_lines(target: str) -> Lines:
    """`target`: stdout, off, or a file's path, which is appended to."""
    if target == "off":
        return Lines(None)
    if target == "stdout":
        return Lines(sys.stdout.buffer)
    return Lines(Path(target).open("ab"))  # for as long as the process lives


def _write(target: BinaryIO, lines: bytes) -> None:
    target.write(lines)
    target.flush()
