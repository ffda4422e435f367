"""How each engine is started: its command line and its environment, from one serve spec.

One engine a file; `LAUNCHERS` is the whole list of those the platform knows by itself, and a spec
may bring an operator's own along (`template`). Nothing else starts an engine.
"""

from collections.abc import Mapping
from pathlib import Path

from engines.host import ServeSpec, SpecError
from engines.launchers import builtin, llamacpp, sglang, template, vllm
from engines.launchers.launcher import Launch, Launcher, Place, inherit
from engines.launchers.template import EngineTemplate

__all__ = [
    "LAUNCHERS",
    "EngineTemplate",
    "Launch",
    "Launcher",
    "Place",
    "launch",
    "launcher_for",
]

LAUNCHERS: dict[str, Launcher] = {
    "fake": builtin.FAKE,
    "llamacpp": llamacpp.LLAMACPP,
    "sglang": sglang.SGLANG,
    "transformers": builtin.TRANSFORMERS,
    "vllm": vllm.VLLM,
}


def launch(
    spec: ServeSpec, *, spec_path: Path, inherited: Mapping[str, str], home: Path | None = None
) -> Launch:
    """The process that serves `spec`; `spec_path` holds `spec.to_json()`, `home` is the engine's
    own environment on this node. Files named in the answer go beside the spec before the start.

    Variables: the harmless ones among `inherited`, then the engine's own, then `spec.environment`.
    Raises SpecError for an engine nobody taught us, one that is not on this node, or arguments
    that it does not take.
    """
    launcher = launcher_for(spec)
    if launcher.program and home is None:
        raise SpecError("engine", f"{spec.engine} is not on this node", "install it there")
    place = Place(spec_path=spec_path, home=home)
    launcher.check_arguments(spec.arguments)
    own = launcher.environment(spec, place)
    return Launch(
        command=launcher.command(spec, place),
        environment=inherit(inherited, home=home) | own | dict(spec.environment),
        health_url=f"http://{spec.host}:{spec.port}{launcher.health_path}",
        files=launcher.files(spec),
    )


def launcher_for(spec: ServeSpec) -> Launcher:
    """Raises SpecError for an engine nobody taught us."""
    if spec.template is not None:
        return template.launcher(EngineTemplate.from_values(spec.template))
    return known(spec.engine)


def known(engine: str) -> Launcher:
    """An engine that the platform knows by itself. Raises SpecError for any other."""
    try:
        return LAUNCHERS[engine]
    except KeyError:
        raise SpecError(
            "engine", f"{engine!r} is not known", f"use one of {sorted(LAUNCHERS)}"
        ) from None
