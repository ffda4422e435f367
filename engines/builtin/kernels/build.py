"""Compiles the kernels, once for each machine and version of them."""

import contextlib
import hashlib
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCES = ("forward.c", "packing.c", "check.c")
HEADERS = ("vectors.h", "units.h", "tiles.h", "attention.h")
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
# Matrix units that the processor shows and a hypervisor does not let us use, or use right.
WITHOUT_UNITS = ("-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8")
COMPILER = "cc"
LIMIT_SECONDS = 60
CHECK = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).check())"


class CannotBuild(Exception):
    """The kernels cannot be had on this machine; the message says why."""


def library_path(*, folder: Path | None = None) -> Path:
    """The compiled and checked library, from the cache folder if it is there. Raises CannotBuild."""
    here = Path(__file__).parent
    path = (folder or _cache_folder()) / f"kernels-{_key(here)}.so"
    if path.exists():
        return path
    began_at = time.monotonic()
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(descriptor)
    fresh = Path(name)
    try:
        try:
            _compile(here, name)
        except CannotBuild:
            if "amx_bf16" not in _processor():
                raise
            _compile(here, name, *WITHOUT_UNITS)
        fresh.rename(path)  # whoever else built meanwhile built the same
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
    logger.info("compiled the kernels in %.1f s: %s", time.monotonic() - began_at, path)
    return path


def _compile(here: Path, name: str, *flags: str) -> None:
    sources = [str(here / each) for each in SOURCES]
    _run([COMPILER, *FLAGS, *flags, *sources, "-o", name, "-lm"])
    # In a process of its own: an instruction that this machine lacks would end ours.
    _run([sys.executable, "-c", CHECK, name])


def _cache_folder() -> Path:
    """The user's own; others must not be able to put a library there."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path.home() / ".cache" / "ai-factory" / "kernels"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    return Path(tempfile.mkdtemp(prefix="ai-factory-kernels-"))  # for this process alone


def _key(here: Path) -> str:
    """Changes with the sources, the compiler and the processor."""
    digest = hashlib.sha256()
    for name in (*HEADERS, *SOURCES):
        digest.update((here / name).read_bytes())
    said = _run([COMPILER, "--version"])
    digest.update(f"{FLAGS} {said} {platform.machine()} {_processor()}".encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        lines = text.partition("\n\n")[0].splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(line for line in lines if line.startswith(wanted))
    return platform.processor()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(str(error)) from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise CannotBuild(f"{command[0]} ended with {done.returncode}: {''.join(last)}")
    return done.stdout
