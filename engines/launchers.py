"""How each engine is started: its command line and its environment, from one serve spec.

An engine is known by name; `LAUNCHERS` is the whole list. To teach the platform another engine,
add a launcher here: nothing else starts one.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.host import ServeSpec, SpecError

# What an engine may inherit from the process that starts it. Everything else stays behind: that
# process knows the database's address and the platform's keys, and an engine needs neither.
INHERITED = (
    "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SYSTEMROOT", "TMPDIR",
    "TZ", "USER", "VIRTUAL_ENV",
)  # fmt: skip


@dataclass(frozen=True)
class Launcher:
    """One engine: what to run, with which variables set. `spec_path` holds `spec.to_json()`."""

    command: Callable[[ServeSpec, Path], list[str]]
    environment: Callable[[ServeSpec], dict[str, str]]
    health_path: str = "/health"


@dataclass(frozen=True)
class Launch:
    """A process ready to be started."""

    command: list[str]
    environment: dict[str, str]
    health_url: str


def launch(spec: ServeSpec, *, spec_path: Path, inherited: Mapping[str, str]) -> Launch:
    """The process that serves `spec`. Raises SpecError for an engine nobody taught us.

    Variables: the harmless ones among `inherited`, then the engine's own, then `spec.environment`.
    """
    launcher = launcher_for(spec.engine)
    environment = {name: inherited[name] for name in INHERITED if name in inherited}
    environment |= launcher.environment(spec)
    environment |= spec.environment
    return Launch(
        command=launcher.command(spec, spec_path),
        environment=environment,
        health_url=f"http://{spec.host}:{spec.port}{launcher.health_path}",
    )


def launcher_for(engine: str) -> Launcher:
    """Raises SpecError for an engine nobody taught us."""
    try:
        return LAUNCHERS[engine]
    except KeyError:
        raise SpecError(
            "engine", f"{engine!r} is not known", f"use one of {sorted(LAUNCHERS)}"
        ) from None


def command(spec: ServeSpec, *, spec_path: Path) -> list[str]:
    """The command line alone."""
    return launcher_for(spec.engine).command(spec, spec_path)


def _python_module(module: str) -> Callable[[ServeSpec, Path], list[str]]:
    def build(spec: ServeSpec, spec_path: Path) -> list[str]:
        return [sys.executable, "-m", module, str(spec_path)]

    return build


def _torch_environment(spec: ServeSpec) -> dict[str, str]:
    return {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(spec.threads),
        "MKL_NUM_THREADS": str(spec.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # weights come from model_path; an engine fetches nothing
        "THP_MEM_ALLOC_ENABLE": "1",  # torch on Linux: huge pages for weights and cache
    }


def _plain_environment(spec: ServeSpec) -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1"}


LAUNCHERS: dict[str, Launcher] = {
    "transformers": Launcher(_python_module("engines.transformers_server"), _torch_environment),
    "fake": Launcher(_python_module("engines.fake"), _plain_environment),
}
