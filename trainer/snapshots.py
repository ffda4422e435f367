"""Models as they were at the ends of epochs, kept beside the result until that is published."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from trainer import folders


def folder_beside(output: Path) -> Path:
    """Where a run's snapshots lie, by where its result will."""
    return output.with_name("snapshots")


def save(root: Path, *, step: int, kept: int, fill: Callable[[Path], None]) -> None:
    """Keep what `fill` writes, whole or not at all, and remove all but the newest `kept`."""
    folders.write_folder(root / f"step-{step:08d}", fill, facts={"step": step})
    for path in sorted(root.glob("step-????????"), reverse=True)[kept:]:
        shutil.rmtree(path)


def list_whole(root: Path) -> list[tuple[int, Path]]:
    """Steps and folders, oldest first; what is not as it was written is left out."""
    found = []
    for path in sorted(root.glob("step-????????")):
        try:
            found.append((int(folders.read_facts(path)["step"]), path))
        except (ValueError, KeyError):
            continue
    return found
