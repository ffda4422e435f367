"""Numbers for Prometheus: histograms and counters of this process, and those of all for a reader.

Each process tells Redis its own every few seconds, so that any process can be asked for those of
all; each is a set of series of its own, for counters of a process that ends must not make a sum go
backwards.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, cast
from uuid import uuid4

import orjson
import redis.asyncio
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

KEY = "metrics:gateways"  # in Redis, a hash: process -> its numbers
STALE_SECONDS = 30.0
MOST_SERIES = 2_000  # of a process; what comes then is counted as `other`
PREFIX = "ai_factory_gateway"
# Upper bounds in seconds. What takes longer falls into one more interval without a bound.
BOUNDS: dict[str, tuple[float, ...]] = {
    "time_to_first_token": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60),
    "inter_token": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
    "request": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600),
    "queue": (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120),
}
HELP = {
    "time_to_first_token": "From a request's arrival to the first byte of its streamed answer.",
    "inter_token": "Mean time between two tokens of a streamed answer.",
    "request": "From a request's arrival to the end of its answer.",
    "queue": "Time that a request was held until a replica was ready.",
}
LABELS = ("organization", "model", "status")

Labels = tuple[str, ...]


class Histogram:
    """Counts by interval, and the sum of what was counted."""

    __slots__ = ("counts", "total")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.total = 0.0


class Measures:
    """Numbers of this process. `tell` and `read_all` speak to Redis."""

    def __init__(self) -> None:
        self.process = uuid4().hex[:12]
        self._histograms: dict[str, dict[Labels, Histogram]] = {name: {} for name in BOUNDS}
        self._tokens: dict[Labels, int] = {}
        self._known: set[Labels] = set()

    def count(self, labels: Labels, **seconds: float | None) -> None:
        """One request by organization, model and status; None for what it did not have."""
        labels = self._bounded(labels)
        for name, value in seconds.items():
            if value is None:
                continue
            bounds, found = BOUNDS[name], self._histograms[name]
            histogram = found.get(labels)
            if histogram is None:
                histogram = found[labels] = Histogram(len(bounds))
            histogram.counts[bisect_left(bounds, value)] += 1
            histogram.total += value

    def count_tokens(self, labels: Labels, count: int) -> None:
        """By organization, model and direction."""
        labels = self._bounded(labels)
        self._tokens[labels] = self._tokens.get(labels, 0) + count

    def told(self) -> dict[str, Any]:
        """Everything, as Redis keeps it."""
        return {
            "at": time.time(),
            "histograms": {
                name: [[list(labels), each.counts, each.total] for labels, each in found.items()]
                for name, found in self._histograms.items()
            },
            "tokens": [[list(labels), count] for labels, count in self._tokens.items()],
        }

    async def tell(self, client: redis.asyncio.Redis) -> None:
        """Raises RedisError."""
        await client.hset(KEY, self.process, orjson.dumps(self.told()))

    async def read_all(self, client: redis.asyncio.Redis) -> dict[str, dict[str, Any]]:
        """Of all processes that live, by process; without Redis of this one. Forgets the others."""
        found = {self.process: self.told()}
        try:
            told = await client.hgetall(KEY)
            stale = []
            for name, data in told.items():
                values = orjson.loads(data)
                if values["at"] < time.time() - STALE_SECONDS:
                    stale.append(name)
                else:
                    found.setdefault(cast("bytes", name).decode(), values)
            if stale:
                await client.hdel(KEY, *stale)
        except (RedisError, OSError) as error:
            logger.warning("only this process's numbers, Redis is away: %s", error)
        return found

    def _bounded(self, labels: Labels) -> Labels:
        if labels not in self._known:
            if len(self._known) >= MOST_SERIES:
                return ("other", "other", labels[-1])
            self._known.add(labels)
        return labels


def render(processes: dict[str, dict[str, Any]]) -> bytes:
    """In Prometheus' text format, version 0.0.4."""
    # Here, for no request needs it: it is only loaded where somebody reads numbers.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    class Collected:
        def collect(self) -> Iterable[Any]:
            for name, bounds in BOUNDS.items():
                family = HistogramMetricFamily(
                    f"{PREFIX}_{name}_seconds", HELP[name], labels=[*LABELS, "process"]
                )
                for process, told in processes.items():
                    for labels, counts, total in told["histograms"][name]:
                        family.add_metric([*labels, process], _buckets(bounds, counts), total)
                yield family
            tokens = CounterMetricFamily(
                f"{PREFIX}_tokens",
                "Tokens of answered requests.",
                labels=["organization", "model", "direction", "process"],
            )
            for process, told in processes.items():
                for labels, count in told["tokens"]:
                    tokens.add_metric([*labels, process], count)
            yield tokens

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    return generate_latest(registry)


def _buckets(bounds: Iterable[float], counts: list[int]) -> list[tuple[str, float]]:
    """Prometheus' buckets count everything below them too."""
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    sums, total = [], 0
    for count in counts:
        total += count
        sums.append(total)
    return list(zip(names, map(float, sums), strict=True))
