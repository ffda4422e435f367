"""A fleet of nodes in one process: real agents' rounds over engines that are only remembered.

`python -m benchmarks.fleet NODES FILE`. What touches PostgreSQL is the agents' own code
(`agent.node.NodeAgent`: heartbeats, rounds, steps); what is left out is what would run on other
machines anyway: probes of devices, engine processes, and each node's Celery queue, so that every
step waits for its round. A number written to FILE is how many of the nodes have died.
"""

import os
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "factory.settings.dev")
django.setup()

from django.utils import timezone  # noqa: E402

from agent.node import BEAT_SECONDS, STEP_SECONDS, NodeAgent  # noqa: E402
from chips import services as chips  # noqa: E402
from chips.models import Node  # noqa: E402
from chips.services import SeenAccelerator  # noqa: E402
from engines.fake_host import FakeHost  # noqa: E402
from engines.host import Seen, ServeSpec  # noqa: E402

ACCELERATORS = 8
START_SECONDS = 2.0  # an engine's, from its start to its first answer
DRIVERS = 4  # threads that go round the nodes
STEPPERS = 8  # threads that step rows, for all nodes together


class RememberedEngines(FakeHost):
    """Engines that are healthy START_SECONDS after their start."""

    def __init__(self) -> None:
        super().__init__()
        self._began: dict[str, float] = {}

    def start(self, spec: ServeSpec) -> None:
        self._began.setdefault(spec.name, time.monotonic())
        super().start(spec)

    def observe(self, name: str) -> Seen:
        seen = super().observe(name)
        if seen is Seen.STARTING and time.monotonic() - self._began[name] >= START_SECONDS:
            self.seen[name] = seen = Seen.HEALTHY
        return seen


class FleetAgent(NodeAgent):
    """An agent whose rounds are driven from outside."""

    def __init__(self, *, node: Node, steppers: ThreadPoolExecutor) -> None:
        super().__init__(node=node)
        self.engines = RememberedEngines()  # type: ignore[assignment]
        self._steppers = steppers
        self._next: dict[str, float] = {"beat": 0.0, "step": 0.0}

    def beat(self) -> None:
        chips.record_heartbeat(
            node_id=self.node.pk, accelerators=devices(), facts={}, now=timezone.now()
        )

    def go_round(self) -> None:
        """What is due: the heartbeat, the steps."""
        now = time.monotonic()
        if now >= self._next["beat"]:
            self._next["beat"] = now + BEAT_SECONDS
            self.beat()
        if now >= self._next["step"]:
            self._next["step"] = now + STEP_SECONDS
            self.step_all()


def devices() -> list[SeenAccelerator]:
    return [
        SeenAccelerator(
            index=index,
            device_id=f"cpu:{index}",
            vendor="Generic CPU",
            name="x86_64",
            memory_bytes=32 << 30,
            cores=(index,),
        )
        for index in range(ACCELERATORS)
    ]


def main(nodes: int, file: Path) -> None:
    steppers = ThreadPoolExecutor(STEPPERS)
    agents = []
    for number in range(nodes):
        node = chips.register_node(
            pool_name="fleet",
            name=f"node-{number:04}",
            address=f"127.1.{number // 250}.{number % 250 + 1}",  # each node has its own ports
            accelerators=devices(),
            facts={},
            now=timezone.now(),
        )
        agents.append(FleetAgent(node=node, steppers=steppers))
    file.write_text("0")
    queue = deque(agents)
    lock = threading.Lock()
    dead = 0

    def drive() -> None:
        while True:
            with lock:
                agent = queue.popleft() if queue else None
            if agent is None:
                return
            if agents.index(agent) < dead:
                continue
            agent.go_round()
            with lock:
                queue.append(agent)
            time.sleep(STEP_SECONDS / 2 / max(1, len(agents)) * DRIVERS)

    for _ in range(DRIVERS):
        threading.Thread(target=drive, daemon=True).start()
    while True:
        time.sleep(0.2)
        dead = int(file.read_text() or 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
