"""Which replica answers: by the route's weights, then the one with the fewest open requests."""

import random
import time
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from gateway.directory import Replica, Route, Target

# A replica that failed is left alone for so long, if there is another; twice as long each time it
# fails again.
COOL_DOWN_SECONDS = 2.0
LONGEST_COOL_DOWN_SECONDS = 16.0
FORGOTTEN_SECONDS = 60.0  # since it might have been tried again: it is no replica any more


@dataclass(frozen=True, slots=True)
class Fault:
    """Failures in a row of one replica, and until when (monotonic) it is left alone."""

    failures: int
    until: float


class Choice(NamedTuple):
    target: Target
    replica: Replica


class Router:
    """Counts what is open on each replica of this process's requests."""

    def __init__(self) -> None:
        self._open: defaultdict[str, int] = defaultdict(int)
        self._faults: dict[str, Fault] = {}
        self._tried: set[str] = set()  # those that failed, and that a request tries again now
        self._hung: set[str] = set()

    def choose(self, route: Route, *, tried: Set[str] = frozenset()) -> Choice | None:
        """A replica that was not tried yet, or None. Pair with `opened` and `closed`.

        One that has just failed is chosen only if there is no other.
        """
        if not tried and not self._faults and not self._hung and len(route.targets) == 1:
            target = route.targets[0]  # as it nearly always is
            if not target.weight or not target.replicas:
                return None
            return Choice(target, self._least_busy(target.replicas))
        usable = self._usable(route, tried, cool_only=True) or self._usable(
            route, tried, cool_only=False
        )
        if not usable:
            return None
        target, replicas = self._by_weight(_other_variants(usable, route, tried) or usable)
        return Choice(target, self._least_busy(replicas))

    def opened(self, replica_id: str) -> bool:
        """True where the request tries a replica again that has failed: tell `closed`."""
        self._open[replica_id] += 1
        is_trial = replica_id in self._faults
        if is_trial:
            self._tried.add(replica_id)
        return is_trial

    def closed(self, replica_id: str, *, is_trial: bool = False) -> None:
        if is_trial:
            self._tried.discard(replica_id)
        self._open[replica_id] -= 1
        if self._open[replica_id] <= 0:
            del self._open[replica_id]

    def failed(self, replica_id: str) -> None:
        """It could not be reached, or broke before it answered."""
        now = time.monotonic()
        known = self._faults.get(replica_id)
        if known is not None and known.until > now:  # one of several that failed together
            return
        failures = known.failures + 1 if known is not None else 1
        pause = min(COOL_DOWN_SECONDS * 2.0 ** (failures - 1), LONGEST_COOL_DOWN_SECONDS)
        forgotten = now - FORGOTTEN_SECONDS
        self._faults = {
            key: fault for key, fault in self._faults.items() if fault.until > forgotten
        }
        self._faults[replica_id] = Fault(failures, now + pause)

    def answered(self, replica_id: str) -> None:
        if self._faults:
            self._faults.pop(replica_id, None)
            self._tried.discard(replica_id)

    def hung(self, replica_id: str) -> None:
        """It answers nobody: nothing is sent to it until it has `recovered`."""
        self._hung.add(replica_id)

    def recovered(self, replica_id: str) -> None:
        self._hung.discard(replica_id)

    def _least_busy(self, replicas: Sequence[Replica]) -> Replica:
        if len(replicas) == 1:
            return replicas[0]
        busy = [self._open.get(replica.id, 0) for replica in replicas]
        fewest = min(busy)
        idle = [replica for replica, each in zip(replicas, busy, strict=True) if each == fewest]
        return idle[0] if len(idle) == 1 else random.choice(idle)  # noqa: S311

    def _usable(
        self, route: Route, tried: Set[str], *, cool_only: bool
    ) -> list[tuple[Target, list[Replica]]]:
        hot = self._left_alone() | self._hung if cool_only else self._hung
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

    def _left_alone(self) -> set[str]:
        """Those that failed; once their time is up, one request at a time may try them."""
        if not self._faults:
            return set()
        now = time.monotonic()
        return {
            each for each, fault in self._faults.items() if fault.until > now or each in self._tried
        }

    def _by_weight(
        self, usable: list[tuple[Target, list[Replica]]]
    ) -> tuple[Target, list[Replica]]:
        if len(usable) == 1:
            return usable[0]
        weights = [target.weight for target, _ in usable]
        return random.choices(usable, weights)[0]  # noqa: S311


def _other_variants(
    usable: list[tuple[Target, list[Replica]]], route: Route, tried: Set[str]
) -> list[tuple[Target, list[Replica]]]:
    """Where a request was tried on one variant of a deployment that is rolling, the other: what
    the new one breaks on, the old one may answer."""
    if not tried:
        return []
    met = [each for each in route.targets if any(one.id in tried for one in each.replicas)]
    deployments = {each.deployment_id for each in met}
    return [pair for pair in usable if pair[0].deployment_id in deployments and pair[0] not in met]
