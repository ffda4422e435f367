"""What an agent does round the clock: beats, steps what its node holds, ends what nobody knows."""

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, close_old_connections, connections
from django.utils import timezone

from agent import probe
from agent.engine_host import LocalEngineHost
from agent.trainer_host import LocalTrainerHost
from chips import services as chips
from chips.models import Node
from common import leases
from deployments import custom_engines, planning
from deployments import reconcile as deployments
from engines import installed
from engines.host import Seen
from training import reconcile as training
from training.choices import HOLDING
from training.models import TrainingRun

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
STEP_SECONDS = 1.0
SWEEP_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 30.0
STEPPERS = 8  # rows stepped at once; a step may wait for an engine's answer
STEPS_AT_ONCE = 8  # of one row that keeps moving
LOCK_SECONDS = 30.0


class AnotherAgent(Exception):
    """An agent of this name runs on this machine already."""


@contextmanager
def only_agent(name: str) -> Iterator[None]:
    """Hold the node's folder for this process alone. Waits a while for a predecessor to end;
    raises AnotherAgent. The lock goes with the process, however it ends."""
    folder = planning.node_folder(name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + LOCK_SECONDS
    with (folder / "agent.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AnotherAgent(
                        f"An agent named {name} runs on this machine already: stop it, or give "
                        "this one another --name."
                    ) from None
                time.sleep(0.1)
        yield


def node_facts() -> dict[str, Any]:
    """What people and placement want to know of this machine."""
    homes = installed.homes(planning.engines_folder(), settings.FACTORY_ENGINES)
    return probe.node_facts() | {"engines": installed.find(homes, custom_engines.list_templates())}


class NodeAgent:
    """The node's hands. `start` begins the rounds in threads, `stop` ends them; engines and
    trainers live on unless `end_processes` is called."""

    def __init__(self, *, node: Node, cpu_accelerators: int | None = None) -> None:
        self.node = node
        folder = planning.node_folder(node.name)
        homes = installed.homes(planning.engines_folder(), settings.FACTORY_ENGINES)
        self.engines = LocalEngineHost(folder / "engines", homes=homes)
        self.trainers = LocalTrainerHost(
            root=folder / "runs",
            cache=planning.weights_folder(node.name),
            node_name=node.name,
        )
        self._cpu_accelerators = cpu_accelerators
        self._over = threading.Event()
        self._at_work: set[Hashable] = set()
        self._lock = threading.Lock()
        self._steppers = ThreadPoolExecutor(STEPPERS, thread_name_prefix="step")
        self._rounds = [
            threading.Thread(target=self._every, args=(seconds, work), daemon=True)
            for seconds, work in (
                (BEAT_SECONDS, self.beat),
                (STEP_SECONDS, self.step_all),
                (SWEEP_SECONDS, self.sweep_strays),
            )
        ]

    def start(self) -> None:
        """Free the rows that a killed predecessor was at work on, then begin the rounds."""
        deployments.break_leases(self.node.pk)
        training.break_leases(self.node.pk)
        for thread in self._rounds:
            thread.start()

    def stop(self) -> None:
        """End the rounds; returns once the steps that had begun are done."""
        self._over.set()
        for thread in self._rounds:
            thread.join()
        self._steppers.shutdown(wait=True, cancel_futures=True)

    def beat(self) -> None:
        """Say that the node lives, and what it sees."""
        chips.record_heartbeat(
            node_id=self.node.pk,
            accelerators=probe.probe(cpu_accelerators=self._cpu_accelerators),
            facts=node_facts(),
            now=timezone.now(),
        )

    def step_all(self) -> None:
        """Have every replica and run of this node stepped that is not being stepped right now.

        A replica at rest costs a look at its engine and no query of its own.
        """
        placed = deployments.list_placed(self.node.pk).values_list("pk", "status", "wanted")
        for pk, status, wanted in list(placed):
            at_rest = deployments.is_at_rest(status=status, wanted=wanted)
            self._submit(pk, self._check_replica if at_rest else self._step_replica)
        lacking = deployments.list_out_of_step(self.node.pk, now=timezone.now())
        for pk in list(lacking.values_list("pk", flat=True)):
            self.look_at_adapters(pk)
        runs = TrainingRun.objects.filter(node=self.node.pk, status__in=HOLDING)
        for pk in list(runs.values_list("pk", flat=True)):
            self.look_at_run(pk)

    def look_at_replica(self, pk: UUID) -> None:
        """Have a replica stepped soon, by one of the agent's threads."""
        self._submit(pk, self._step_replica)

    def look_at_adapters(self, pk: UUID) -> None:
        """Have a replica's adapters looked at soon, beside its own steps."""
        self._submit(pk, self._attach_adapters, key=("adapters", pk))

    def look_at_run(self, pk: UUID) -> None:
        """Have a run stepped soon, by one of the agent's threads."""
        self._submit(pk, self._step_run)

    def sweep_strays(self) -> None:
        """End every engine and trainer that no row of this node stands for."""
        strays = self.engines.processes.sweep_orphans(self._known_engines)
        strays |= training.sweep_node(host=self.trainers, now=timezone.now())
        for pk in list(deployments.list_attached(self.node.pk).values_list("pk", flat=True)):
            self.look_at_adapters(pk)
        if strays:
            logger.info("ended what no row stands for: %s", ", ".join(sorted(strays)))

    def end_processes(self, *, seconds: float) -> None:
        """End all engines and trainers: asked first, killed after `seconds`. The replicas' rows
        say so; runs go on from their checkpoints when the agent is back."""
        names = self._held_runs()
        for name in names:
            self.trainers.stop(name)
        deadline = time.monotonic() + seconds
        engines = self.engines.processes
        while time.monotonic() < deadline:
            for name in engines.names():
                self.engines.stop(name)
            alive = [name for name in names if self.trainers.observe(name).seen == "running"]
            if not alive and not engines.names():
                break
            time.sleep(0.1)
        for name in engines.names():
            engines.forget(name)
        for name in names:
            self.trainers.stop(name, force=True)
        try:
            deployments.end_with_agent(self.node.pk, now=timezone.now())
        except DatabaseError:
            logger.exception("the end of this node's engines is not written: its next agent will")

    def _held_runs(self) -> list[str]:
        runs = TrainingRun.objects.filter(node=self.node.pk, status__in=HOLDING)
        try:
            return [str(pk) for pk in runs.values_list("pk", flat=True)]
        except DatabaseError:
            logger.exception("trainers are left alone: the database does not say which")
            return []

    def _known_engines(self, names: frozenset[str]) -> Collection[str]:
        rows = deployments.list_placed(self.node.pk)
        return {str(pk) for pk in rows.values_list("pk", flat=True)} & names

    def _step_replica(self, pk: UUID) -> bool:
        return deployments.step_replica(pk, host=self.engines, now=timezone.now())

    def _attach_adapters(self, pk: UUID) -> bool:
        return deployments.attach_adapters(pk, host=self.engines, now=timezone.now())

    def _check_replica(self, pk: UUID) -> bool:
        if self.engines.observe(str(pk)) is Seen.HEALTHY:
            return False
        return self._step_replica(pk)

    def _step_run(self, pk: UUID) -> bool:
        return training.step_run(pk, host=self.trainers, now=timezone.now())

    def _submit(
        self, pk: UUID, step: Callable[[UUID], bool], *, key: Hashable | None = None
    ) -> None:
        """`key` says what is at work on: the row itself unless told."""
        key = key or pk
        with self._lock:
            if key in self._at_work or self._over.is_set():
                return
            self._at_work.add(key)
        self._steppers.submit(self._work, pk, step, key)

    def _work(self, pk: UUID, step: Callable[[UUID], bool], key: Hashable) -> None:
        try:
            close_old_connections()
            for _ in range(STEPS_AT_ONCE):
                if not step(pk) or self._over.is_set():
                    break
        except leases.LeaseLost as error:
            logger.info("%s", error)
        except Exception:
            logger.exception("step of %s failed", pk)
            connections.close_all()
        finally:
            with self._lock:
                self._at_work.discard(key)

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        """Do `work` at once and every so often, ever more seldom while it fails."""
        failures = 0
        while True:
            try:
                close_old_connections()
                work()
                failures = 0
            except Exception:
                failures += 1
                logger.exception("%s failed, %d times in a row", work.__name__, failures)
                connections.close_all()
            pause = min(seconds * 2**failures, max(seconds, LONGEST_PAUSE_SECONDS))
            if self._over.wait(pause):
                connections.close_all()
                return
