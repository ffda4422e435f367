"""The seam between those who want trainers and the node where trainer processes live."""

import enum
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer.spec import TrainSpec


class Seen(enum.StrEnum):
    """What a host sees of one run's trainer, looked at now."""

    ABSENT = "absent"  # this host knows no such trainer
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True)
class Sighting:
    """One look. `attempt` is the one that the process was started for; `returncode` is negative
    for a signal, and None where the process ended while its agent was away. `memory_ran_out`: while
    it lived its machine killed a process for memory, and it was killed."""

    seen: Seen
    attempt: int = 0
    returncode: int | None = None
    memory_ran_out: bool = False


@dataclass(frozen=True)
class CheckSighting:
    """One look at the comparison of a result with what was trained. `report` is what it wrote."""

    seen: Seen
    report: Mapping[str, Any] | None = None


class TrainerHost(Protocol):
    """Where trainer processes live; a run's name is its id. Every call returns soon, and may be
    repeated at any time."""

    node_name: str
    cache: Path  # the node's copy of revisions

    def folder(self, name: str) -> Path:
        """The run's own folder on this node, for data, checkpoints, progress and result. It may
        not exist yet."""
        ...

    def observe(self, name: str) -> Sighting:
        """Looks at the run's trainer now."""
        ...

    def start(self, spec: TrainSpec, *, environment: Mapping[str, str]) -> None:
        """Starts the trainer of run `spec.run_id`, with these variables added to its environment.

        Does nothing if one of that run lives, whatever its attempt; replaces one that exited.
        """
        ...

    def stop(self, name: str, *, force: bool = False) -> None:
        """Asks the trainer to end (SIGTERM: it saves and yields), or kills it. Does not wait."""
        ...

    def log_tail(self, name: str) -> str:
        """The last lines of what the trainer said."""
        ...

    def start_check(
        self, name: str, spec: Mapping[str, Any], *, environment: Mapping[str, str]
    ) -> None:
        """Starts comparing the run's result, as `engines.parity` reads `spec`; its `report` is
        filled in. Does nothing if one lives or has ended."""
        ...

    def observe_check(self, name: str) -> CheckSighting: ...

    def stop_check(self, name: str) -> None:
        """Kills it."""
        ...

    def sweep(self, known: Callable[[frozenset[str]], Collection[str]]) -> frozenset[str]:
        """Kill and remove, folder and all, every run that `known` does not name among those that
        it is given; answers with their names."""
        ...
