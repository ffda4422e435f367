"""A trainer host without processes, for tests of whatever drives one."""

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from trainer.host import CheckSighting, Seen, Sighting
from trainer.progress import Kind, ProgressWriter
from trainer.spec import TrainSpec


class FakeTrainerHost:
    """Remembers what it was asked; the test plays the trainer with `tell` and `exit`.

    A stopped trainer stays until the test lets it exit, or is killed by force.
    """

    def __init__(self, root: Path, *, node_name: str = "node-1") -> None:
        self.root = root
        self.cache = root / "cache"
        self.node_name = node_name
        self.sightings: dict[str, Sighting] = {}
        self.specs: list[TrainSpec] = []  # of every real start, in order
        self.environments: list[dict[str, str]] = []
        self.stopped: list[tuple[str, bool]] = []  # (name, force), each call
        self.logs: dict[str, str] = {}
        self.checks: dict[str, CheckSighting] = {}
        self.checked: list[dict[str, Any]] = []  # specs of every check that was started

    def folder(self, name: str) -> Path:
        return self.root / "runs" / name

    def observe(self, name: str) -> Sighting:
        return self.sightings.get(name, Sighting(Seen.ABSENT))

    def start(self, spec: TrainSpec, *, environment: Mapping[str, str]) -> None:
        if self.observe(spec.run_id).seen is Seen.RUNNING:
            return
        self.folder(spec.run_id).mkdir(parents=True, exist_ok=True)
        self.specs.append(spec)
        self.environments.append(dict(environment))
        self.sightings[spec.run_id] = Sighting(Seen.RUNNING, spec.attempt)

    def stop(self, name: str, *, force: bool = False) -> None:
        self.stopped.append((name, force))
        if force and self.observe(name).seen is Seen.RUNNING:
            self.exit(name, -9)

    def log_tail(self, name: str) -> str:
        return self.logs.get(name, "")

    def start_check(
        self, name: str, spec: Mapping[str, Any], *, environment: Mapping[str, str]
    ) -> None:
        self.checked.append(dict(spec))
        self.checks.setdefault(name, CheckSighting(Seen.RUNNING))

    def observe_check(self, name: str) -> CheckSighting:
        return self.checks.get(name, CheckSighting(Seen.ABSENT))

    def stop_check(self, name: str) -> None:
        self.checks[name] = CheckSighting(Seen.EXITED)

    def sweep(self, known: Callable[[frozenset[str]], Collection[str]]) -> frozenset[str]:
        runs = self.root / "runs"
        names = frozenset(path.name for path in runs.iterdir()) if runs.exists() else frozenset()
        strays = names - frozenset(known(names))
        for name in strays:
            self.sightings.pop(name, None)
            shutil.rmtree(self.folder(name))
        return strays

    # What a test has the trainer do

    def tell(self, kind: Kind, **fields: object) -> None:
        """The trainer started last writes a line of progress."""
        spec = self.specs[-1]
        with ProgressWriter(Path(spec.progress_path), attempt=spec.attempt) as progress:
            progress.write(kind, **fields)

    def exit(self, name: str, returncode: int | None, *, memory_ran_out: bool = False) -> None:
        """The trainer is gone."""
        attempt = self.observe(name).attempt
        self.sightings[name] = Sighting(Seen.EXITED, attempt, returncode, memory_ran_out)

    def write_result(self, files: Mapping[str, bytes | str]) -> None:
        """The trainer started last writes its result."""
        output = Path(self.specs[-1].output_path)
        output.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (output / name).write_bytes(data)

    def lose_folder(self, name: str) -> None:
        """The node's disk was replaced."""
        shutil.rmtree(self.folder(name), ignore_errors=True)
        self.sightings.pop(name, None)
