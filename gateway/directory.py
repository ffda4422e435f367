"""Who may call which model, and where it is served: a snapshot in this process.

Requests read it without waiting for anything. Background tasks keep it fresh from PostgreSQL: about
every second, and at once when somebody publishes on the Redis channels `keys` or `routes`. While
the database is away, the last snapshot goes on serving.
"""

import asyncio
import contextlib
import enum
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import redis.asyncio
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)
T = TypeVar("T")

CHANNELS = ("keys", "routes", "limits")
REFRESH_SECONDS = 1.0
PAUSE_SECONDS = 0.02  # at least, between two refreshes, however many changes are published
WARM_KEYS = 10_000  # loaded at the start, those used last
MOST_KEYS = 200_000  # kept; the one unused for longest goes first
MOST_UNKNOWN = 10_000
UNKNOWN_SECONDS = 5.0  # how long a prefix that no key has is remembered as such
LOOKUP_SECONDS = 3.0
MOST_LOOKUPS = 500  # at once: guessing at keys must not pile up questions
TOUCH_SECONDS = 30.0  # how often `last_used_at` is written


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as the gateway needs it. `expires_at`: seconds since 1970, None for never.

    Here and below ids are UUIDs as text: they are keys of dictionaries on every request's way, and
    a text remembers its hash.
    """

    id: str
    name: str
    prefix: str
    secret_hash: bytes
    organization_id: str
    organization_slug: str
    scopes: frozenset[str]
    allowed_models: frozenset[str] = frozenset()
    allowed_networks: frozenset[str] = frozenset()
    expires_at: float | None = None
    is_revoked: bool = False
    is_suspended: bool = False


@dataclass(frozen=True, slots=True)
class Replica:
    """An engine that answers; `token` is its bearer secret. A provider outside is one, too:
    `base_path` is what stands before its endpoints, `is_tls` whether it is spoken to by TLS."""

    id: str
    host: str
    port: int
    token: str = field(repr=False)
    base_path: str = "/v1"
    is_tls: bool = False
    is_outside: bool = False


class Waits(enum.Enum):
    """Whether a request may wait for a deployment of which no replica is ready, and for what."""

    NOT = "not"  # nothing will come: none is wanted, or starting was given up
    FOR_RESTART = "restart"  # one was, or will soon be, there
    ON_DEMAND = "demand"  # replicas come and go with requests


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment behind a route, or a provider outside. `served_model_name`: what its engines
    call their model; `message`: for people, why none of its replicas is ready; `is_asleep`: none
    is even wanted, until somebody says that a request waits; `rank`: those of a higher one answer
    while none of a lower one can; `provider_name`: of a provider, whose prices hold then."""

    deployment_id: str
    deployment_name: str
    revision_id: str | None
    served_model_name: str
    weight: float
    replicas: tuple[Replica, ...]
    message: str = ""
    waits: Waits = Waits.NOT
    is_asleep: bool = False
    rank: int = 0
    provider_name: str = ""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A target whose answers are compared and given to nobody. `share`: of the requests, 0 to 1."""

    target: Target
    share: float


@dataclass(frozen=True, slots=True)
class Route:
    """A public model name of one organization. `created_at`: seconds since 1970."""

    name: str
    organization_id: str
    created_at: int
    targets: tuple[Target, ...]
    shadow: Shadow | None = None


class Source(Protocol):
    """Where the truth is. Called from threads; raises any database error."""

    def load_recent_keys(self, limit: int) -> list[Key]: ...
    def load_keys(self, prefixes: Iterable[str]) -> list[Key]: ...
    def load_routes(self) -> list[Route]: ...
    def touch_keys(self, ids: Iterable[str]) -> None: ...


class SourceAway(Exception):
    """The source could not be asked in time."""


class Directory:
    """The snapshot. `find_key`, `find_route` and `list_routes` answer from memory."""

    def __init__(self, source: Source, *, redis_url: str | None = None) -> None:
        self._source = source
        self._redis_url = redis_url
        self.on_routes: Callable[[], None] = lambda: None  # called when they were read anew
        self.on_limits: Callable[[], None] = lambda: None  # called when limits were changed
        self._keys: OrderedDict[str, Key] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()  # prefix -> until when
        self._routes: dict[str, dict[str, Route]] = {}
        self._used: set[str] = set()
        self._touched_at = time.monotonic()
        self._changed = asyncio.Event()
        # One thread refreshes, another looks up: a refresh that hangs must not hold up a new key.
        self._refresher = ThreadPoolExecutor(1, "gateway-refresh")
        self._finder = ThreadPoolExecutor(2, "gateway-find")
        self._lookups: dict[str, asyncio.Future[Key | None]] = {}

    def find_key(self, prefix: str) -> Key | None:
        """The key if it is known here; asking counts as use."""
        key = self._keys.get(prefix)
        if key is not None:
            self._used.add(key.id)
        return key

    async def look_up_key(self, prefix: str) -> Key | None:
        """A key not seen before, from the source; None if there is none. Raises SourceAway.

        Many who ask for the same one share a look-up, and a wrong prefix is remembered.
        """
        if self._unknown.get(prefix, 0.0) > time.monotonic():
            return None
        pending = self._lookups.get(prefix)
        if pending is None and len(self._lookups) >= MOST_LOOKUPS:
            raise SourceAway("too many look-ups at once")
        if pending is None:
            loop = asyncio.get_running_loop()
            pending = loop.run_in_executor(self._finder, self._find_in_source, prefix)
            self._lookups[prefix] = pending
            pending.add_done_callback(lambda done: self._looked_up(prefix, done))
        try:
            return await asyncio.wait_for(asyncio.shield(pending), LOOKUP_SECONDS)
        except Exception as error:
            raise SourceAway(str(error)) from error

    def find_route(self, organization_id: str, name: str) -> Route | None:
        routes = self._routes.get(organization_id)
        return routes.get(name) if routes else None

    def find_replica(self, address: tuple[str, int]) -> str | None:
        """The id of the routed replica that listens there. Looks through all of them."""
        found = self.find_target(address)
        return found[1].id if found is not None else None

    def find_target(self, address: tuple[str, int]) -> tuple[Target, Replica] | None:
        """The routed replica that listens there, and a deployment that it answers for."""
        for routes in self._routes.values():
            for route in routes.values():
                for target in route.targets:
                    for replica in target.replicas:
                        if (replica.host, replica.port) == address:
                            return target, replica
        return None

    def list_routes(self, organization_id: str) -> list[Route]:
        routes = self._routes.get(organization_id, {})
        return sorted(routes.values(), key=lambda route: route.name)

    async def load(self) -> None:
        """The first snapshot. Raises what the source raises."""
        await self._in_refresher(self._warm)
        self._put_routes(await self._in_refresher(self._source.load_routes))

    async def refresh(self) -> None:
        """Read everything that is known here anew. Raises what the source raises."""
        self._put_routes(await self._in_refresher(self._source.load_routes))
        known = list(self._keys)
        found = await self._in_refresher(lambda: self._source.load_keys(known))
        present = {key.prefix: key for key in found}
        for prefix in known:
            if prefix in present:
                self._keys[prefix] = present[prefix]
            else:
                self._keys.pop(prefix, None)
        if self._used and time.monotonic() - self._touched_at > TOUCH_SECONDS:
            used, self._used = self._used, set()
            self._touched_at = time.monotonic()
            await self._in_refresher(lambda: self._source.touch_keys(used))

    async def run(self) -> None:
        """Keep the snapshot fresh until cancelled."""
        is_away = False
        while True:
            self._changed.clear()  # first: what changes while we read is read again
            try:
                await self.refresh()
                if is_away:
                    logger.info("the database answers again")
                is_away = False
            except Exception as error:
                if not is_away:
                    logger.exception("cannot refresh; going on with the last snapshot: %s", error)
                is_away = True
            await asyncio.sleep(PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), REFRESH_SECONDS)

    async def listen(self) -> None:
        """Refresh at once when a change is published, until cancelled."""
        if self._redis_url is None:
            return
        while True:
            client = redis.asyncio.Redis.from_url(self._redis_url)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as channels:
                    await channels.subscribe(*CHANNELS)
                    self.on_limits()  # what was said while nobody listened
                    async for message in channels.listen():
                        if message["channel"] == b"limits":
                            self.on_limits()
                            continue
                        self._unknown.clear()
                        self._changed.set()
            except (RedisError, OSError) as error:
                logger.warning("no news from Redis for a moment: %s", error)
                await asyncio.sleep(REFRESH_SECONDS)
            finally:
                await client.aclose()

    def close(self) -> None:
        self._refresher.shutdown(wait=False, cancel_futures=True)
        self._finder.shutdown(wait=False, cancel_futures=True)

    def _find_in_source(self, prefix: str) -> Key | None:
        return next(iter(self._source.load_keys([prefix])), None)

    def _looked_up(self, prefix: str, done: asyncio.Future[Key | None]) -> None:
        self._lookups.pop(prefix, None)
        if done.cancelled() or done.exception() is not None:
            return
        key = done.result()
        if key is None:
            self._unknown[prefix] = time.monotonic() + UNKNOWN_SECONDS
            while len(self._unknown) > MOST_UNKNOWN:
                self._unknown.popitem(last=False)
            return
        self._keys[prefix] = key
        while len(self._keys) > MOST_KEYS:
            self._keys.popitem(last=False)

    def _warm(self) -> None:
        for key in self._source.load_recent_keys(WARM_KEYS):
            self._keys[key.prefix] = key

    def _put_routes(self, routes: list[Route]) -> None:
        table: dict[str, dict[str, Route]] = {}
        for route in routes:
            table.setdefault(route.organization_id, {})[route.name] = route
        self._routes = table
        self.on_routes()

    async def _in_refresher(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._refresher, function)
