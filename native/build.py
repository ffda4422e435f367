"""Compiles a folder of C files into a library, once for each machine and version of them.

A folder holds `*.c` and `*.h` files, may include the headers beside this file, and defines
`int check(void)`, which answers 0 if the machine does what the code expects of it.
"""

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

HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
# Matrix units that the processor shows and a hypervisor does not let us use, or use right.
WITHOUT_UNITS = ("-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8")
COMPILER = "cc"
LIMIT_SECONDS = 60
CHECK = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).check())"


class CannotBuild(Exception):
    """The library cannot be had on this machine; the message says why."""


def library_path(sources: Path, *, folder: Path | None = None) -> Path:
    """The compiled and checked library, from the cache folder if it is there. Raises CannotBuild."""
    path = (folder or _cache_folder()) / f"kernels-{_key(sources)}.so"
    if path.exists():
        return path
    began_at = time.monotonic()
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(descriptor)
    fresh = Path(name)
    try:
        try:
            _compile(sources, name)
        except CannotBuild:
            if "amx_bf16" not in _processor():
                raise
            _compile(sources, name, *WITHOUT_UNITS)
        fresh.rename(path)  # whoever else built meanwhile built the same
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
    logger.info("compiled the kernels in %.1f s: %s", time.monotonic() - began_at, path)
    return path


def _compile(sources: Path, name: str, *flags: str) -> None:
    files = [str(each) for each in sorted(sources.glob("*.c"))]
    _run([COMPILER, *FLAGS, *flags, f"-I{HERE}", *files, "-o", name, "-lm"])
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


def _key(sources: Path) -> str:
    """Changes with the sources, the compiler and the processor."""
    digest = hashlib.sha256()
    for path in [*sorted(HERE.glob("*.h")), *sorted(sources.glob("*.[ch]"))]:
        digest.update(path.read_bytes())
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
