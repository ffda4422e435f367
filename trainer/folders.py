"""Folders that are either whole or not there: written aside, hashed, synced, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "trainer_manifest.json"
_PARTIAL = ".partial"


def write_folder(target: Path, fill: Callable[[Path], None], *, facts: dict[str, Any]) -> int:
    """Create `target` with what `fill` puts in a folder given to it; returns its bytes.

    `facts` go into the manifest beside the size and sha256 of every file. An older `target` is
    replaced. Once this returns, the folder outlives a power cut.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_partial(target)
    partial = target.with_name(target.name + _PARTIAL)
    partial.mkdir()
    try:
        return _write(partial, target, fill, facts)
    except BaseException:
        remove_partial(target)  # a full disk has no room for halves
        raise


def _write(partial: Path, target: Path, fill: Callable[[Path], None], facts: dict[str, Any]) -> int:
    fill(partial)
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        _sync(path)
        files[path.relative_to(partial).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
    manifest = partial / MANIFEST
    manifest.write_text(json.dumps({"facts": facts, "files": files}, indent=1), encoding="utf-8")
    _sync(manifest)
    _sync(partial)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    _sync(target.parent)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a whole folder; raises ValueError saying what is missing or altered."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        facts, files = manifest["facts"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its manifest cannot be read: {error!r}") from error
    for name, told in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != told["bytes"]:
            raise ValueError(f"{name} is missing or cut short")
        if _sha256(path) != told["sha256"]:
            raise ValueError(f"{name} does not match its sha256")
    return dict(facts)


def remove_partial(target: Path) -> None:
    """Remove what a killed `write_folder` left behind."""
    shutil.rmtree(target.with_name(target.name + _PARTIAL), ignore_errors=True)


def remove_all_partial(parent: Path) -> None:
    for leftover in parent.glob(f"*{_PARTIAL}"):
        shutil.rmtree(leftover)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
