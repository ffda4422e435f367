"""Trainers on this node: one `python -m trainer` a run, kept by the process supervisor."""

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from agent import memory_pressure
from agent.supervisor import Life, ProcessSupervisor
from trainer.host import Seen, Sighting
from trainer.spec import TrainSpec

PROJECT = Path(__file__).resolve().parent.parent
LOG_TAIL_BYTES = 8000
KILLS_FILE = "memory_kills_before"  # what count_kills said at the start
# What a trainer needs of the agent's environment; the platform's secrets are not among it.
PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "CUDA_HOME",
    "ASCEND_HOME_PATH",
    "ASCEND_OPP_PATH",
    "PYTHONPATH",
    "THP_MEM_ALLOC_ENABLE",
)
SEEN = {Life.ABSENT: Seen.ABSENT, Life.RUNNING: Seen.RUNNING, Life.EXITED: Seen.EXITED}


class LocalTrainerHost:
    """A TrainerHost over real processes. `root` holds a folder a run, which goes with the run;
    `cache` holds revisions, shared with the engines of this node."""

    def __init__(self, *, root: Path, cache: Path, node_name: str) -> None:
        self.node_name = node_name
        self.cache = cache
        self._processes = ProcessSupervisor(root)

    def folder(self, name: str) -> Path:
        return self._processes.folder(name)

    def observe(self, name: str) -> Sighting:
        sight = self._processes.observe(name)
        if sight.life is Life.ABSENT:
            return Sighting(Seen.ABSENT)
        ran_out = (
            sight.life is Life.EXITED
            and sight.returncode in (None, -signal.SIGKILL)
            and memory_pressure.count_kills() > self._kills_before(name)
        )
        return Sighting(SEEN[sight.life], self._attempt(name), sight.returncode, ran_out)

    def start(self, spec: TrainSpec, *, environment: Mapping[str, str]) -> None:
        name = spec.run_id
        kills = memory_pressure.count_kills()
        kept = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        self._processes.start(
            name,
            [sys.executable, "-m", "trainer", str(self._processes.spec_path(name))],
            env=kept | dict(environment),
            cwd=PROJECT,
            spec=json.dumps(spec.to_json(), indent=1),
            files={KILLS_FILE: str(kills)},
        )

    def stop(self, name: str, *, force: bool = False) -> None:
        self._processes.signal(name, signal.SIGKILL if force else signal.SIGTERM)

    def log_tail(self, name: str) -> str:
        return self._processes.log_tail(name, limit_bytes=LOG_TAIL_BYTES)

    def sweep(self, known: Callable[[frozenset[str]], Collection[str]]) -> frozenset[str]:
        return self._processes.sweep_orphans(known)

    def _attempt(self, name: str) -> int:
        """The attempt in the spec that the process was started with."""
        try:
            return int(json.loads(self._processes.spec_path(name).read_text())["attempt"])
        except (OSError, ValueError, KeyError):
            return 0

    def _kills_before(self, name: str) -> float:
        try:
            return int((self.folder(name) / KILLS_FILE).read_text())
        except (OSError, ValueError):
            return float("inf")  # not known: then nothing is laid at memory's door
