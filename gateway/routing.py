"""Which replica answers.

Targets of the lowest rank that can answer, among them by the route's weights; of their replicas the
one that has read the beginning of this conversation before, unless it is busier than the others
(consistent hashing with bounded load), and for requests without such a beginning the one with the
fewest open requests. A replica that fails is left alone for a while: that is the circuit breaker.
"""

import random
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from gateway.directory import Replica, Route, Target

# A replica that failed is left alone for so long, if there is another; twice as long each time it
# fails again.
COOL_DOWN_SECONDS = 2.0
LONGEST_COOL_DOWN_SECONDS = 16.0
FORGOTTEN_SECONDS = 60.0  # since it might have been tried again: it is no replica any more
BREAKS_AFTER = 5  # errors in a row from one that can be reached
# How much more than its share of the open requests a replica may have for the sake of its cache.
BOUND = 1.25
MIX = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: spreads neighbouring numbers


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
        self._errors: dict[str, int] = {}  # in a row

    def choose(
        self,
        route: Route,
        *,
        tried: Set[str] = frozenset(),
        affinity: int = 0,
        min_rank: int = 0,
    ) -> Choice | None:
        """A replica that was not tried yet, or None. Pair with `opened` and `closed`.

        One that has just failed is chosen only if there is no other, of any rank. `affinity`: equal
        for requests that begin alike, 0 where that says nothing; `min_rank`: of the targets.
        """
        if not tried and not self._faults and not self._hung and len(route.targets) == 1:
            target = route.targets[0]  # as it nearly always is
            if not target.weight or not target.replicas or target.rank < min_rank:
                return None
            return Choice(target, self._of(target.replicas, affinity))
        usable = self._usable(route, tried, min_rank, cool_only=True) or self._usable(
            route, tried, min_rank, cool_only=False
        )
        if not usable:
            return None
        target, replicas = self._by_weight(_other_variants(usable, route, tried) or usable)
        return Choice(target, self._of(replicas, affinity))

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
        if len(self._errors) > len(self._faults) + 1000:
            self._errors.clear()

    def errored(self, route: Route, choice: Choice) -> None:
        """It answered, and what it said is that it broke: one of those means nothing, several in a
        row that it had better be left alone. Not so while its deployment rolls: the rollout counts
        these errors to judge the new variant, and has an end of its own for them."""
        target, replica = choice
        others = (each for each in route.targets if each is not target)
        if any(each.deployment_id == target.deployment_id for each in others):
            return
        count = self._errors[replica.id] = self._errors.get(replica.id, 0) + 1
        if count >= BREAKS_AFTER:
            self.failed(replica.id)

    def answered(self, replica_id: str) -> None:
        if self._errors:
            self._errors.pop(replica_id, None)
        if self._faults:
            self._faults.pop(replica_id, None)
            self._tried.discard(replica_id)

    def hung(self, replica_id: str) -> None:
        """It answers nobody: nothing is sent to it until it has `recovered`."""
        self._hung.add(replica_id)

    def recovered(self, replica_id: str) -> None:
        self._hung.discard(replica_id)

    def _of(self, replicas: Sequence[Replica], affinity: int) -> Replica:
        if len(replicas) == 1:
            return replicas[0]
        return self._nearest(replicas, affinity) if affinity else self._least_busy(replicas)

    def _nearest(self, replicas: Sequence[Replica], affinity: int) -> Replica:
        """Rendezvous hashing with bounded load: the first in this beginning's own order of the
        replicas that has no more open requests than its share and a quarter. The order is the same
        in every process; a replica more or less moves only what it has to move."""
        busy = [self._open.get(replica.id, 0) for replica in replicas]
        most = BOUND * (sum(busy) + 1) / len(replicas)
        order = sorted(replicas, key=lambda replica: _distance(replica.id, affinity))
        loads = dict(zip(replicas, busy, strict=True))
        for replica in order:
            if loads[replica] < most:
                return replica
        return order[0]

    def _least_busy(self, replicas: Sequence[Replica]) -> Replica:
        busy = [self._open.get(replica.id, 0) for replica in replicas]
        fewest = min(busy)
        idle = [replica for replica, each in zip(replicas, busy, strict=True) if each == fewest]
        return idle[0] if len(idle) == 1 else random.choice(idle)  # noqa: S311

    def _usable(
        self, route: Route, tried: Set[str], min_rank: int, *, cool_only: bool
    ) -> list[tuple[Target, list[Replica]]]:
        """Targets of the lowest rank that has any, each with its replicas."""
        hot = self._left_alone() | self._hung if cool_only else self._hung
        usable: list[tuple[Target, list[Replica]]] = []
        for target in route.targets:
            if not target.weight or target.rank < min_rank:
                continue
            if usable and usable[0][0].rank < target.rank:  # targets come in order of their ranks
                break
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


@lru_cache(maxsize=4096)
def _number(replica_id: str) -> int:
    return zlib.crc32(replica_id.encode())


def _distance(replica_id: str, affinity: int) -> int:
    return ((_number(replica_id) ^ affinity) * MIX & 0xFFFFFFFFFFFFFFFF) >> 20


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
