"""What one engine is to the platform: how to start it, how to look at it, how it ends."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.host import ServeSpec, SpecError

# What an engine may inherit from the process that starts it. Everything else stays behind: that
# process knows the database's address and the platform's keys, and an engine needs neither.
INHERITED = (
    "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TMPDIR", "TZ", "USER",
)  # fmt: skip
# Of the platform's own Python: an engine with an environment of its own must not see them.
OF_OUR_PYTHON = ("PYTHONPATH", "VIRTUAL_ENV")

Allowed = type[bool] | type[int] | type[float] | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an engine is started: the file that holds its spec, the folder it is installed in
    (None: it is the platform's own)."""

    spec_path: Path
    home: Path | None

    def program(self, name: str) -> str:
        """A program of the engine's environment, with its path."""
        return str(self.home / name) if self.home is not None else name


def no_files(_: ServeSpec) -> dict[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """One engine. `program` and `distribution` tell a node whether it has it, and which version."""

    command: Callable[[ServeSpec, Place], list[str]]
    environment: Callable[[ServeSpec, Place], dict[str, str]]
    files: Callable[[ServeSpec], dict[str, str]] = no_files  # name -> text, for its owner alone
    program: str = ""  # in its own environment; empty: it needs none
    distribution: str = ""
    health_path: str = "/health"
    # Gauges at /metrics whose sum is how many requests are open. An engine that has them is asked
    # to end only when that is 0: most drop what is open. Empty: it drains by itself.
    open_gauges: tuple[str, ...] = ()
    start_seconds: float = 120.0  # what it needs at most before and after reading the weights
    process_bytes: int = 2**29  # memory that its processes take beside weights and cache
    arguments: Mapping[str, Allowed] = field(default_factory=dict)  # what else may be said to it

    def check_arguments(self, values: Mapping[str, object]) -> None:
        """Raises SpecError for one that is not on the engine's list, or out of its range."""
        for name, value in values.items():
            where = f"arguments.{name}"
            if name not in self.arguments:
                known = ", ".join(sorted(self.arguments)) or "none"
                raise SpecError(where, "the engine takes no such argument", f"it takes {known}")
            allowed = self.arguments[name]
            if isinstance(allowed, type):
                right = float if allowed is float and not isinstance(value, bool) else allowed
                sound = isinstance(value, right) or (right is float and isinstance(value, int))
                sound = sound and isinstance(value, bool) == (allowed is bool)
                wish = {bool: "true or false", int: "a whole number", float: "a number"}[allowed]
            else:
                sound, wish = value in allowed, f"one of {', '.join(allowed)}"
            if not sound:
                raise SpecError(where, f"{value!r} does not fit", f"give {wish}")

    def further_words(self, spec: ServeSpec, *, off: str = "") -> list[str]:
        """The spec's further arguments as words of a command line. `off` is written before the name
        of one that is false; without it, it is left out."""
        words = []
        for name, value in sorted(spec.arguments.items()):
            if value is True:
                words.append(f"--{name}")
            elif value is not False:
                words.append(f"--{name}={value}")
            elif off:
                words.append(f"{off}{name}")
        return words


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A process ready to be started."""

    command: list[str]
    environment: dict[str, str]
    health_url: str
    files: dict[str, str] = field(default_factory=dict)


def inherit(inherited: Mapping[str, str], *, home: Path | None) -> dict[str, str]:
    """The harmless variables of the starting process. An engine of its own environment finds that
    environment's programs first (compilers of kernels call them by name)."""
    names = INHERITED + (OF_OUR_PYTHON if home is None else ())
    environment = {name: inherited[name] for name in names if name in inherited}
    if home is not None:
        environment["PATH"] = f"{home / 'bin'}:{environment.get('PATH', '/usr/bin:/bin')}"
    return environment


def thread_environment(spec: ServeSpec) -> dict[str, str]:
    """For anything built on torch or OpenMP."""
    return {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(spec.threads),
        "MKL_NUM_THREADS": str(spec.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # weights come from model_path; an engine fetches nothing
    }


def core_list(spec: ServeSpec) -> str:
    """The cores as `0-1,4`; empty where the engine is not pinned."""
    runs: list[list[int]] = []
    for core in sorted(spec.cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(f"{low}-{high}" if low != high else f"{low}" for low, high in runs)


def memory_share(spec: ServeSpec) -> float | None:
    """Which part of each device's memory the engine may fill, of 1; None if nobody knows.

    A tenth of what was given stays free: drivers, other libraries' buffers and fragments live there.
    """
    if not spec.memory_bytes or not spec.device_memory_bytes:
        return None
    share = spec.memory_bytes / (spec.device_memory_bytes * spec.device_count)
    return round(min(max(share, 0.05), 1.0) * 0.9, 3)


def read_config(spec: ServeSpec) -> dict[str, Any]:
    """The model's config.json; empty where it cannot be read."""
    try:
        config = json.loads((Path(spec.model_path) / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def weight_bytes(spec: ServeSpec) -> int:
    """What the weights take on disk."""
    files = Path(spec.model_path).glob("*.safetensors")
    return sum(path.stat().st_size for path in files)
