"""What gateways see of each replica: requests, errors, tokens, waiting times. No row, no history.

Every gateway process counts for itself and writes about once a second what it has counted (see
gateway/signals.py); a reader adds the processes up. Counts lie in buckets of ten seconds, kept for
a quarter of an hour. What is true only now, requests in flight and requests held, expires within
seconds, so that a gateway that died counts no longer.

In Redis, with `bucket` the second that it begins at and `gateway` a process's own id:

    signals:bucket:<bucket>   hash    <replica id>/<gateway> -> Totals.encode()
    signals:now:<gateway>     string  Now.encode(), gone after NOW_SECONDS
    signals:gateways          sorted set of gateways by when they last wrote
"""

import functools
import logging
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, cast
from uuid import UUID

import orjson
import redis
from django.conf import settings

logger = logging.getLogger(__name__)

BUCKET_SECONDS = 10
KEPT_SECONDS = 900
NOW_SECONDS = 5  # after this a gateway that says nothing has nothing in flight
TIMEOUT_SECONDS = 1.0
GATEWAYS = "signals:gateways"
# Upper bounds of the histogram of times to the first token: 4 ms to 131 s, each sqrt(2) times the
# one before. What took longer falls into one more interval, which has no upper bound.
FIRST_TOKEN_BOUNDS = tuple(0.004 * 2 ** (step / 2) for step in range(31))
COUNTERS = {
    "requests": "n",
    "errors": "e",
    "timeouts": "t",
    "input_tokens": "i",
    "output_tokens": "o",
    "decode_seconds": "s",
    "decode_steps": "d",
}  # and how they are called in Redis


def bucket_key(bucket: int) -> str:
    return f"signals:bucket:{bucket}"


def now_key(gateway: str) -> str:
    return f"signals:now:{gateway}"


def bucket_of(at: float) -> int:
    """The bucket that a moment (seconds since 1970) belongs to."""
    return int(at) // BUCKET_SECONDS * BUCKET_SECONDS


@dataclass(slots=True)
class Totals:
    """Counts of one replica, or of several together, over some time.

    `errors`: answers of 500 and more, engines that could not be reached or fell silent
    (`timeouts`), streams that broke; nothing that is the client's doing. Requests count when they
    end, tokens as they pass.
    """

    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    decode_seconds: float = 0.0  # of streams, from the first token to the last
    decode_steps: int = 0  # tokens of these streams but the first
    first_tokens: dict[int, int] = field(default_factory=dict)  # histogram: interval -> streams

    def add(self, other: "Totals") -> None:
        for name in COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for interval, count in other.first_tokens.items():
            self.first_tokens[interval] = self.first_tokens.get(interval, 0) + count

    def count_first_token(self, seconds: float) -> None:
        interval = bisect_left(FIRST_TOKEN_BOUNDS, seconds)
        self.first_tokens[interval] = self.first_tokens.get(interval, 0) + 1

    @property
    def error_share(self) -> float:
        """Errors among requests, 0 to 1; 0 where there was no request."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def inter_token_seconds(self) -> float | None:
        """The mean time between two tokens of a stream; None without streams."""
        return self.decode_seconds / self.decode_steps if self.decode_steps else None

    def first_token_seconds(self, share: float) -> float | None:
        """The time within which this share (0.95: p95) of the streams had their first token.

        Interpolated within an interval of the histogram: off by less than its width. None without
        streams.
        """
        intervals = sorted(self.first_tokens)
        ends = list(accumulate(self.first_tokens[each] for each in intervals))
        if not ends:
            return None
        rank = share * ends[-1]
        at = min(bisect_left(ends, rank), len(ends) - 1)
        interval = intervals[at]
        if interval >= len(FIRST_TOKEN_BOUNDS):
            return FIRST_TOKEN_BOUNDS[-1]
        low = FIRST_TOKEN_BOUNDS[interval - 1] if interval else 0.0
        count = self.first_tokens[interval]
        within = (rank - (ends[at] - count)) / count
        return low + (FIRST_TOKEN_BOUNDS[interval] - low) * max(0.0, min(1.0, within))

    def encode(self) -> bytes:
        values: dict[str, Any] = {
            short: getattr(self, name) for name, short in COUNTERS.items() if getattr(self, name)
        }
        if self.first_tokens:
            values["f"] = {str(interval): count for interval, count in self.first_tokens.items()}
        return orjson.dumps(values)

    @classmethod
    def decode(cls, data: bytes) -> "Totals":
        values = orjson.loads(data)
        first = {int(interval): count for interval, count in values.get("f", {}).items()}
        counters = {name: values.get(short, 0) for name, short in COUNTERS.items()}
        return cls(**counters, first_tokens=first)


@dataclass(frozen=True, slots=True)
class Window:
    """Totals by replica id over the last `seconds`; a replica without traffic is not in it."""

    seconds: float
    replicas: Mapping[str, Totals]

    def of(self, replica_ids: Iterable[UUID | str]) -> Totals:
        """These replicas together."""
        total = Totals()
        for replica_id in replica_ids:
            found = self.replicas.get(str(replica_id))
            if found is not None:
                total.add(found)
        return total


@dataclass(slots=True)
class Now:
    """What is open at this moment: requests by replica id, held requests by deployment id; and
    for how many seconds replicas that have requests sent nothing to any gateway, by their id."""

    in_flight: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    silent: dict[str, float] = field(default_factory=dict)
    gateways: int = 0  # processes that told of themselves

    def in_flight_on(self, replica_ids: Iterable[UUID | str]) -> int:
        return sum(self.in_flight.get(str(replica_id), 0) for replica_id in replica_ids)

    def held_for(self, deployment_id: UUID | str) -> int:
        return self.held.get(str(deployment_id), 0)

    def encode(self) -> bytes:
        return orjson.dumps({"in_flight": self.in_flight, "held": self.held, "silent": self.silent})

    def add_encoded(self, data: bytes) -> None:
        values = orjson.loads(data)
        for mine, theirs in ((self.in_flight, "in_flight"), (self.held, "held")):
            for name, count in values[theirs].items():
                mine[name] = mine.get(name, 0) + count
        for replica_id in values["in_flight"]:
            # a gateway to which it talks knows better than one that it has left waiting
            seconds = values.get("silent", {}).get(replica_id, 0.0)
            self.silent[replica_id] = min(seconds, self.silent.get(replica_id, seconds))
        self.gateways += 1


def read_now() -> Now | None:
    """What all gateways have open. None if Redis is away or no gateway tells: nobody knows."""
    try:
        keys = [now_key(gateway) for gateway in _gateways(since=time.time() - NOW_SECONDS)]
        answers = cast("list[bytes | None]", _client().mget(keys)) if keys else []
    except redis.RedisError as error:
        _say_away(error)
        return None
    now = Now()
    for data in answers:
        if data is not None:
            now.add_encoded(data)
    return now if now.gateways else None


def read_window(
    *, seconds: float, replica_ids: Iterable[UUID | str] | None = None, at: float | None = None
) -> Window | None:
    """What these replicas did (None: all) in the last `seconds`, counted in whole buckets, so over
    up to ten seconds more: `Window.seconds` tells. None if Redis is away."""
    at = time.time() if at is None else at
    found = _read(_buckets(seconds, at), replica_ids)
    if found is None:
        return None
    replicas: dict[str, Totals] = {}
    for bucket in found.values():
        for replica_id, totals in bucket.items():
            replicas.setdefault(replica_id, Totals()).add(totals)
    return Window(seconds=at - min(found), replicas=replicas)


def read_history(
    replica_ids: Iterable[UUID | str], *, seconds: float, at: float | None = None
) -> list[tuple[int, Totals]] | None:
    """The same replicas together, bucket by bucket, oldest first: (seconds since 1970, totals).
    The last bucket is not over yet. None if Redis is away."""
    found = _read(_buckets(seconds, time.time() if at is None else at), list(replica_ids))
    if found is None:
        return None
    history = []
    for bucket, replicas in found.items():
        total = Totals()
        for totals in replicas.values():
            total.add(totals)
        history.append((bucket, total))
    return history


def _buckets(seconds: float, at: float) -> list[int]:
    first = bucket_of(at - min(seconds, KEPT_SECONDS - BUCKET_SECONDS))
    return list(range(first, bucket_of(at) + 1, BUCKET_SECONDS))


def _read(
    buckets: list[int], replica_ids: Iterable[UUID | str] | None
) -> dict[int, dict[str, Totals]] | None:
    """Totals by bucket and replica id."""
    try:
        if replica_ids is None:
            raw = _read_all(buckets)
        else:
            raw = _read_some(buckets, [str(replica_id) for replica_id in replica_ids])
    except redis.RedisError as error:
        _say_away(error)
        return None
    found: dict[int, dict[str, Totals]] = {}
    for bucket, fields in zip(buckets, raw, strict=True):
        replicas = found.setdefault(bucket, {})
        for name, data in fields:
            replicas.setdefault(name.partition("/")[0], Totals()).add(Totals.decode(data))
    return found


def _read_all(buckets: list[int]) -> list[list[tuple[str, bytes]]]:
    pipeline = _client().pipeline(transaction=False)
    for bucket in buckets:
        pipeline.hgetall(bucket_key(bucket))
    return [[(name.decode(), data) for name, data in each.items()] for each in pipeline.execute()]


def _read_some(buckets: list[int], replica_ids: list[str]) -> list[list[tuple[str, bytes]]]:
    since = time.time() - KEPT_SECONDS
    gateways = _gateways(since=since) if replica_ids else []
    names = [f"{replica_id}/{gateway}" for replica_id in replica_ids for gateway in gateways]
    if not names:
        return [[] for _ in buckets]
    pipeline = _client().pipeline(transaction=False)
    for bucket in buckets:
        pipeline.hmget(bucket_key(bucket), names)
    return [
        [(name, data) for name, data in zip(names, each, strict=True) if data is not None]
        for each in pipeline.execute()
    ]


def _gateways(*, since: float) -> list[str]:
    rows = cast("list[bytes]", _client().zrangebyscore(GATEWAYS, since, "+inf"))
    return [row.decode() for row in rows]


def _say_away(error: redis.RedisError) -> None:
    logger.warning("no signals, Redis is away: %s", error)


@functools.cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )
