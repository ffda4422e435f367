"""The programs that merge and compare, each a process of its own: the platform never loads torch."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings

from common.errors import DomainError

SECONDS = 4 * 3600.0  # of one program; then it hangs
MOST_THREADS = 4
ERROR_BYTES = 2000
BUSY = 3  # the exit status of a program that finds another one at work

Tell = Callable[[int, int], None]


class MergeRefused(DomainError):
    """The program says why the two cannot be merged; it would say so again."""

    code = "not_mergeable"


class MergeBroken(DomainError):
    """The program came to no end; another try may."""

    code = "merge_broken"


class MergeBusy(Exception):
    """A program that a worker left behind is still at it."""


def threads() -> int:
    """Half of the machine, and not more than adding up can use."""
    return max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2))


def run(module: str, spec: Mapping[str, Any], folder: Path, *, tell: Tell) -> dict[str, Any]:
    """Run `python -m module` in `folder`, without the platform's environment; the last thing it
    said. Raises MergeRefused, MergeBroken, MergeBusy."""
    path = folder / f"{module}.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", module, str(path)],
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=settings.BASE_DIR,
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "HF_HUB_OFFLINE": "1",
                "HF_HOME": str(folder),
                "OMP_NUM_THREADS": str(threads()),
            },
            start_new_session=True,
        ) as process,
    ):
        alarm = threading.Timer(SECONDS, _end, (process,))
        alarm.start()
        try:
            assert process.stdout is not None  # noqa: S101 - asked for above
            said = _follow(process.stdout, tell)
        except BaseException:
            _end(process)
            raise
        finally:
            alarm.cancel()
        status = process.wait()
        if said.get("kind") == "refused":
            raise MergeRefused(said["message"], remedy=said["remedy"])
        if status == BUSY:
            raise MergeBusy
        if status:
            errors.seek(max(0, errors.seek(0, 2) - ERROR_BYTES))
            tail = errors.read().decode(errors="replace").strip().splitlines()
            last = tail[-1] if tail else f"status {status}"
            raise MergeBroken(
                f"{module} came to no end: {last[:300]}",
                remedy="Merge it again; if it ends the same way, tell an operator.",
            )
    return said


def _follow(lines: Any, tell: Tell) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:  # a library's own word
            continue
        if not isinstance(said, dict):
            continue
        if said.get("kind") == "progress":
            tell(said["done_bytes"], said["total_bytes"])
        else:
            last = said
    return last


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def available_memory_bytes() -> int | None:
    """What processes may still take, as the kernel reckons; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] * 1024 if found else None
