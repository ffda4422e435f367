"""llama.cpp. A program of ours runs in its environment and reads the spec (engines/llamacpp)."""

from engines.host import ServeSpec
from engines.launchers.launcher import Launcher, Place, thread_environment


def _command(spec: ServeSpec, place: Place) -> list[str]:
    program = place.program("bin/python")
    return [program, "-m", "engines.llamacpp.server", str(place.spec_path)]


def _environment(spec: ServeSpec, place: Place) -> dict[str, str]:
    return thread_environment(spec)


LLAMACPP = Launcher(
    command=_command,
    environment=_environment,
    program="bin/python",
    distribution="xllamacpp",
    open_gauges=("llamacpp:requests_processing", "llamacpp:requests_deferred"),
    process_bytes=2**30,
    start_seconds=120,
    arguments={"weights": ("q8_0",)},
)
