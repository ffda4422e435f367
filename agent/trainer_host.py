"""Trainers on this node: one `python -m trainer` a run (or `torchrun` of one a rank), kept by the
process supervisor."""

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import memory_pressure
from agent.supervisor import Life, ProcessSupervisor
from trainer import launch
from trainer.host import CheckSighting, Seen, Sighting
from trainer.spec import TrainSpec

PROJECT = Path(__file__).resolve().parent.parent
LOG_TAIL_BYTES = 8000
KILLS_FILE = "memory_kills_before"  # what count_kills said at the start
REPORT = "report.json"  # of a check
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
        self._checks = ProcessSupervisor(root.with_name(root.name + "-checks"))

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
            launch.command(spec, self._processes.spec_path(name)),
            env=kept | dict(environment),
            cwd=PROJECT,
            spec=json.dumps(spec.to_json(), indent=1),
            files={KILLS_FILE: str(kills)},
        )

    def stop(self, name: str, *, force: bool = False) -> None:
        self._processes.signal(name, signal.SIGKILL if force else signal.SIGTERM)

    def log_tail(self, name: str) -> str:
        return self._processes.log_tail(name, limit_bytes=LOG_TAIL_BYTES)

    def start_check(
        self, name: str, spec: Mapping[str, Any], *, environment: Mapping[str, str]
    ) -> None:
        if self._checks.observe(name).life is not Life.ABSENT:
            return
        kept = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        told = dict(spec) | {"report": str(self._checks.folder(name) / REPORT)}
        self._checks.start(
            name,
            [sys.executable, "-m", "engines.parity", str(self._checks.spec_path(name))],
            env=kept | dict(environment),
            cwd=PROJECT,
            spec=json.dumps(told, indent=1),
        )

    def observe_check(self, name: str) -> CheckSighting:
        life = self._checks.observe(name).life
        report = None
        if life is Life.EXITED:
            with suppress(OSError, ValueError):
                report = json.loads((self._checks.folder(name) / REPORT).read_text())
        return CheckSighting(SEEN[life], report)

    def stop_check(self, name: str) -> None:
        self._checks.signal(name, signal.SIGKILL)

    def sweep(self, known: Callable[[frozenset[str]], Collection[str]]) -> frozenset[str]:
        return self._processes.sweep_orphans(known) | self._checks.sweep_orphans(known)

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
