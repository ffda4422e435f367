"""Requests that wait for a replica: from none at all, or while the last one is started again.

They wait in order of arrival, within a number and a time, and go on, in that order, as soon as the
routing table has a replica for them. A deployment that is asleep is woken at once by a message;
should that be lost, the sweep that reads the signals sees within seconds that requests are held.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from gateway import auth, errors
from gateway.directory import Directory, Key, Route, Target, Waits
from gateway.routing import Router

logger = logging.getLogger(__name__)

WAKE_SECONDS = 1.0  # between two messages for the same deployment
RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """`demand_seconds`: the longest wait where replicas come and go with demand; `restart_seconds`:
    where they do not, and one should soon be back; `most_held`: of one deployment, in this process.
    As many are released together, which an engine must take: it lets 256 wait if not told else."""

    demand_seconds: float = 120.0
    restart_seconds: float = 10.0
    most_held: int = 256


@dataclass(slots=True, eq=False)
class Held:
    """One request and its place. Its time counts over all of its waits together."""

    key: Key
    name: str  # of the route
    tried: set[str] = field(default_factory=set)  # replicas that it does not wait for
    since: float = field(default_factory=time.monotonic)
    waited_seconds: float = 0.0
    released: asyncio.Future[None] | None = None

    def release(self) -> None:
        """Let it look at the routing table again."""
        if self.released is not None and not self.released.done():
            self.released.set_result(None)


class Holding:
    """All requests that this process holds. `wake` tells control that a deployment is wanted: it
    may block, and is called in a thread."""

    def __init__(
        self,
        directory: Directory,
        router: Router,
        *,
        wake: Callable[[str], None] | None = None,
        settings: HoldSettings | None = None,
    ) -> None:
        self._directory = directory
        self._router = router
        self._wake = wake
        self._settings = settings or HoldSettings()
        self._queues: dict[str, deque[Held]] = {}
        self._woken: dict[str, tuple[float, Future[None]]] = {}
        self._waker = ThreadPoolExecutor(1, "gateway-wake")
        directory.on_routes = self._look_again

    def counts(self) -> dict[str, int]:
        """Requests held now, by deployment id."""
        return {deployment_id: len(queue) for deployment_id, queue in self._queues.items()}

    async def wait(
        self, held: Held, target: Target, *, at_most_seconds: float | None = None
    ) -> Route:
        """Wait for a replica that was not tried, or for the end of all hope; the route as it is
        then. Raises ApiError: 503 when too many wait already or its time is over, 404 when the
        model is gone, 401 or 403 when its key is no longer let in."""
        queue = self._queues.setdefault(target.deployment_id, deque())
        if len(queue) >= self._settings.most_held:
            raise errors.too_many_held(held.name, retry_after_seconds=RETRY_AFTER_SECONDS)
        left = held.since + self._limit(target) - time.monotonic()
        if left > 0:
            await self._wait(held, target, queue, min(left, at_most_seconds or left))
        if time.monotonic() - held.since >= self._limit(target):
            raise errors.held_too_long(
                held.name,
                seconds=held.waited_seconds,
                why=target.message,
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        route = self._directory.find_route(held.key.organization_id, held.name)
        if route is None:
            raise errors.no_such_model(held.name)
        key = self._directory.find_key(held.key.prefix)  # as it is by now
        if key is not None:
            auth.check_standing(key)
            auth.check_model(key, held.name)
        return route

    def wake_for(self, route: Route, *, below_rank: int) -> None:
        """A target of `below_rank` answers since those before it are asleep: have them woken."""
        for target in route.targets:
            if target.is_asleep and target.weight and target.rank < below_rank:
                self._wake_up(target.deployment_id)

    def close(self) -> None:
        self._waker.shutdown(wait=False, cancel_futures=True)

    async def _wait(
        self, held: Held, target: Target, queue: deque[Held], at_most_seconds: float
    ) -> None:
        began = time.monotonic()
        held.released = asyncio.get_running_loop().create_future()
        queue.append(held)
        if target.is_asleep:
            self._wake_up(target.deployment_id)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(at_most_seconds):
                    await held.released
        finally:
            held.released = None
            held.waited_seconds += time.monotonic() - began
            queue.remove(held)
            if not queue and self._queues.get(target.deployment_id) is queue:
                del self._queues[target.deployment_id]

    def _limit(self, target: Target) -> float:
        is_on_demand = target.waits is Waits.ON_DEMAND
        return self._settings.demand_seconds if is_on_demand else self._settings.restart_seconds

    def _look_again(self) -> None:
        """The routing table was read anew: release who can go on, and who waits in vain."""
        for queue in self._queues.values():
            known: dict[tuple[str, str, frozenset[str]], bool] = {}
            for held in queue:
                case = (held.key.organization_id, held.name, frozenset(held.tried))
                if case not in known:
                    known[case] = self._is_over(held)
                if known[case]:
                    held.release()

    def _is_over(self, held: Held) -> bool:
        route = self._directory.find_route(held.key.organization_id, held.name)
        if route is None or self._router.choose(route, tried=held.tried) is not None:
            return True
        target = may_wait(route)
        if target is not None and target.is_asleep:  # it fell asleep after this one had come
            self._wake_up(target.deployment_id)
        return target is None

    def _wake_up(self, deployment_id: str) -> None:
        if self._wake is None:
            return
        at, sent = self._woken.get(deployment_id, (0.0, None))
        if time.monotonic() - at < WAKE_SECONDS or (sent is not None and not sent.done()):
            return
        future = self._waker.submit(self._try_to_wake, self._wake, deployment_id)
        self._woken[deployment_id] = (time.monotonic(), future)

    @staticmethod
    def _try_to_wake(wake: Callable[[str], None], deployment_id: str) -> None:
        try:
            wake(deployment_id)
        except Exception:
            logger.exception("no message to wake %s, the sweep will see to it", deployment_id)


def may_wait(route: Route) -> Target | None:
    """The target of a route that a request may wait for; None if it had better not."""
    waiting = [each for each in route.targets if each.weight and each.waits is not Waits.NOT]
    rank = {Waits.FOR_RESTART: 0, Waits.ON_DEMAND: 1}
    return max(waiting, key=lambda each: (rank[each.waits], each.weight), default=None)
