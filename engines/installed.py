"""Which engines a node has: those that came with the platform, those installed beside it, and those
that an operator described."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from engines.launchers import LAUNCHERS, EngineTemplate


def homes(root: Path, given: Mapping[str, Path]) -> dict[str, Path]:
    """Where each engine with an environment of its own is, or would be: the folder given for it,
    else the one of its name under `root`."""
    own = (name for name, launcher in LAUNCHERS.items() if launcher.program)
    return {name: given.get(name, root / name) for name in own}


def find(where: Mapping[str, Path], templates: Mapping[str, EngineTemplate]) -> dict[str, str]:
    """Every engine that can be started here, with its version (empty: not known).

    Looks at files only and starts nothing: it is called at every heartbeat. A described engine is
    here if its program is.
    """
    found = {name: "" for name, launcher in LAUNCHERS.items() if not launcher.program}
    for name, home in where.items():
        if (home / LAUNCHERS[name].program).exists():
            version = _version(home, LAUNCHERS[name].distribution)
            if version is not None:
                found[name] = version
    for name, template in templates.items():
        if shutil.which(template.command[0]) is not None:
            found.setdefault(name, "")
    return found


def _version(home: Path, distribution: str) -> str | None:
    """A distribution's version in a virtual environment; None where it is not installed."""
    for folder in home.glob(f"lib/python3*/site-packages/{distribution}-*.dist-info"):
        return folder.name.removesuffix(".dist-info").removeprefix(f"{distribution}-")
    return None
