"""Which replica answers: by the route's weights, then the one with the fewest open requests."""

import random
import time
from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass

from gateway.directory import Replica, Route, Target

COOL_DOWN_SECONDS = 2.0  # a replica that failed is left alone for so long, if there is another


@dataclass(frozen=True, slots=True)
class Choice:
    target: Target
    replica: Replica


class Router:
    """Counts what is open on each replica of this process's requests."""

    def __init__(self) -> None:
        self._open: defaultdict[str, int] = defaultdict(int)
        self._failed_at: dict[str, float] = {}

    def choose(self, route: Route, *, tried: Set[str] = frozenset()) -> Choice | None:
        """A replica that was not tried yet, or None. Pair with `opened` and `closed`.

        One that has just failed is chosen only if there is no other.
        """
        usable = self._usable(route, tried, cool_only=True) or self._usable(
            route, tried, cool_only=False
        )
        if not usable:
            return None
        target, replicas = self._by_weight(usable)
        fewest = min(self._open[replica.id] for replica in replicas)
        idle = [replica for replica in replicas if self._open[replica.id] == fewest]
        return Choice(target, idle[0] if len(idle) == 1 else random.choice(idle))  # noqa: S311

    def opened(self, replica_id: str) -> None:
        self._open[replica_id] += 1

    def closed(self, replica_id: str) -> None:
        self._open[replica_id] -= 1
        if self._open[replica_id] <= 0:
            del self._open[replica_id]

    def failed(self, replica_id: str) -> None:
        """It could not be reached, or broke before it answered."""
        self._failed_at[replica_id] = time.monotonic()

    def answered(self, replica_id: str) -> None:
        if self._failed_at:
            self._failed_at.pop(replica_id, None)

    def _usable(
        self, route: Route, tried: Set[str], *, cool_only: bool
    ) -> list[tuple[Target, list[Replica]]]:
        since = time.monotonic() - COOL_DOWN_SECONDS
        hot = {each for each, at in self._failed_at.items() if at > since} if cool_only else set()
        usable = []
        for target in route.targets:
            if not target.weight:
                continue
            replicas = [
                each for each in target.replicas if each.id not in tried and each.id not in hot
            ]
            if replicas:
                usable.append((target, replicas))
        return usable

    def _by_weight(
        self, usable: list[tuple[Target, list[Replica]]]
    ) -> tuple[Target, list[Replica]]:
        if len(usable) == 1:
            return usable[0]
        weights = [target.weight for target, _ in usable]
        return random.choices(usable, weights)[0]  # noqa: S311
