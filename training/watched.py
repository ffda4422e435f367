"""A program that outlives the task that started it, watched through one folder.

`start` writes what to run and leaves a watcher behind (`python -m training.watched FOLDER`), which
belongs to nobody: it runs the program, beats once a second, ends it when `stop` asks, and writes
how it ended. Whoever sees the folder, on this machine or another, can look; no process ids are
compared, and a worker that is restarted changes nothing.
"""

import contextlib
import enum
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMMAND, BEAT, STOP, EXIT, LOG = "command.json", "beat", "stop", "exit", "log.txt"
BEAT_SECONDS = 1.0
LOST_AFTER_SECONDS = 30.0
GRACE_SECONDS = 10.0
MAX_LOG_BYTES = 20 * 2**20
TAIL_BYTES = 8000


class Seen(enum.StrEnum):
    ABSENT = "absent"  # never started here
    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"  # it has not beaten for a while: its machine may be gone


@dataclass(frozen=True)
class Sighting:
    """One look; `returncode` where it has ended, negative for a signal."""

    seen: Seen
    returncode: int | None = None


def start(
    folder: Path, *, command: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> None:
    """Run the command in `cwd` with these variables and what little a program needs beside them.

    The variables are not written anywhere. What an earlier attempt left is cleared away, the
    program's own files in the folder are not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (BEAT, STOP, EXIT):
        (folder / name).unlink(missing_ok=True)
    (folder / COMMAND).write_text(json.dumps({"command": list(command), "cwd": str(cwd)}))
    (folder / BEAT).touch()
    root = Path(__file__).resolve().parent.parent
    plain = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ
    }
    subprocess.run(
        [sys.executable, "-m", "training.watched", str(folder)],
        cwd=root,
        env=plain | dict(environment),
        check=True,
        timeout=60,
    )


def observe(folder: Path, *, at: float | None = None) -> Sighting:
    """`at` is the time of the look, in seconds since the epoch."""
    try:
        return Sighting(Seen.ENDED, int((folder / EXIT).read_text()))
    except (FileNotFoundError, ValueError):
        pass
    try:
        beaten_at = (folder / BEAT).stat().st_mtime
    except FileNotFoundError:
        return Sighting(Seen.ABSENT)
    late = (time.time() if at is None else at) - beaten_at > LOST_AFTER_SECONDS
    return Sighting(Seen.LOST if late else Seen.RUNNING)


def stop(folder: Path) -> None:
    """Ask it to end; it is killed after ten seconds. Does not wait."""
    if folder.is_dir():
        (folder / STOP).touch()


def log_tail(folder: Path) -> str:
    """The last of what it said."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _watch(folder: Path) -> None:
    told = json.loads((folder / COMMAND).read_text())
    with (folder / LOG).open("ab") as log:
        try:
            process = subprocess.Popen(
                told["command"],
                cwd=told["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_be_humble,
            )
        except OSError as error:
            log.write(f"{error}\n".encode())
            _tell(folder, 127)
            return
    asked_at: float | None = None
    while process.poll() is None:
        (folder / BEAT).touch()
        if asked_at is None and ((folder / STOP).exists() or _is_too_long(folder)):
            asked_at = time.monotonic()
            _signal(process, signal.SIGTERM)
        elif asked_at is not None and time.monotonic() - asked_at > GRACE_SECONDS:
            _signal(process, signal.SIGKILL)
        try:
            process.wait(BEAT_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    _tell(folder, process.returncode)


def _be_humble() -> None:
    """Whoever serves or trains on this machine comes first."""
    os.nice(10)


def _is_too_long(folder: Path) -> bool:
    return (folder / LOG).stat().st_size > MAX_LOG_BYTES


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _tell(folder: Path, returncode: int) -> None:
    written = folder / f"{EXIT}.new"
    written.write_text(str(returncode))
    written.replace(folder / EXIT)


def main(arguments: Sequence[str]) -> int:
    """Twice forked, so that it is nobody's child: the caller need not wait for it."""
    folder = Path(arguments[0]).resolve()
    if os.fork():
        return 0
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    _watch(folder)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
