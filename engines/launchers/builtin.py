"""The platform's own engines: they read the spec file themselves."""

import sys
from collections.abc import Callable

from engines.host import ServeSpec
from engines.launchers.launcher import Launcher, Place, thread_environment


def _module(name: str) -> Callable[[ServeSpec, Place], list[str]]:
    def command(spec: ServeSpec, place: Place) -> list[str]:
        return [sys.executable, "-m", name, str(place.spec_path)]

    return command


def _environment(spec: ServeSpec, place: Place) -> dict[str, str]:
    # torch on Linux: huge pages for weights and cache
    return thread_environment(spec) | {"THP_MEM_ALLOC_ENABLE": "1"}


def _plain(spec: ServeSpec, place: Place) -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1"}


TRANSFORMERS = Launcher(
    command=_module("engines.transformers_server"), environment=_environment, start_seconds=300
)
FAKE = Launcher(command=_module("engines.fake"), environment=_plain, start_seconds=60)
