"""Child processes that outlive the agent: started once, found again after its restart.

Each process has a folder `root/<name>/`: `process.json` (what is known of it), `spec.json` (what
it was told, readable by its owner alone), `log` (what it said). The record is written before the
start and again after it; a process whose agent died in between is found by a variable in its
environment. Whoever runs two supervisors on one root at once is on their own: the agent holds a
lock on the folder.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

import psutil

MARK = "AI_FACTORY_PROCESS"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
LOG_LIMIT_BYTES = 10 * 2**20
PROC = Path("/proc")


class Life(StrEnum):
    ABSENT = "absent"  # nothing of that name was started, or it was forgotten
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True)
class Sight:
    """One look at a process. `returncode` as subprocess counts (-9: killed by signal 9); None if
    it ended while no supervisor of its own family was there to ask."""

    life: Life
    pid: int | None = None
    returncode: int | None = None
    started_at: float | None = None  # seconds since the epoch


@dataclass(frozen=True)
class Record:
    """What `process.json` holds. `pid` is null from just before the start to just after it."""

    argv: list[str]
    started_at: float
    pid: int | None = None
    born: str = ""  # as `birth` tells it
    ended_at: float | None = None
    returncode: int | None = None


class ProcessSupervisor:
    """Starts, sees, signals and forgets processes by name. Safe to call from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._home = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def folder(self, name: str) -> Path:
        """The process's own folder, which may not exist yet. Raises ValueError for a bad name."""
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no process name: use letters, digits, _ and -")
        return self.root / name

    def spec_path(self, name: str) -> Path:
        """Where `start` writes the spec, for the command line."""
        return self.folder(name) / "spec.json"

    def log_path(self, name: str) -> Path:
        return self.folder(name) / "log"

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        spec: str | None = None,
        files: Mapping[str, str] | None = None,
    ) -> int:
        """Start `argv` in a session of its own and return its pid; the pid of the living one if
        there is one already. `env` is the whole environment. Output is appended to the log. `files`
        are written beside the spec, for their owner alone.

        Raises OSError if the program cannot be started.
        """
        with self._lock:
            sight = self.observe(name)
            if sight.life is Life.RUNNING and sight.pid is not None:
                return sight.pid
            self.folder(name).mkdir(mode=0o700, exist_ok=True)
            if spec is not None:
                _write(self.spec_path(name), spec)
            for file, text in (files or {}).items():
                _write(self.folder(name) / file, text)
            self.trim_log(name)
            record = Record(argv=list(argv), started_at=time.time())
            self._record(name, record)
            with self.log_path(name).open("ab") as log:
                child = subprocess.Popen(
                    record.argv,
                    env={"PYTHONUNBUFFERED": "1", **env, MARK: self._mark(name)},
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._children[child.pid] = child
            self._adopt(name, record, child.pid)
            return child.pid

    def observe(self, name: str) -> Sight:
        """How the process is now. An exit seen for the first time also ends what it left behind."""
        with self._lock:
            record = self._read(name)
            if record is None:
                return Sight(Life.ABSENT)
            if record.pid is None:  # the agent died around the start
                pid = self._find(name)
                if pid is None:
                    return Sight(Life.ABSENT)
                record = self._adopt(name, record, pid)
            if record.ended_at is None and not self._lives(record):
                record = self._ended(name, record)
            if record.ended_at is None:
                return Sight(Life.RUNNING, pid=record.pid, started_at=record.started_at)
            return Sight(Life.EXITED, record.pid, record.returncode, record.started_at)

    def signal(self, name: str, number: signal.Signals, *, alone: bool = False) -> bool:
        """Send a signal to the process and all it started, or to it `alone`, for it to end its
        children in good order; false if it does not run."""
        with self._lock:
            sight = self.observe(name)
            if sight.life is not Life.RUNNING or sight.pid is None:
                return False
            with suppress(ProcessLookupError):
                (os.kill if alone else os.killpg)(sight.pid, number)
            return True

    def forget(self, name: str) -> None:
        """Kill what may still run of it and remove its folder. An unknown name is fine."""
        with self._lock:
            self.signal(name, signal.SIGKILL)
            self._kill_left(name, self._read(name))
            shutil.rmtree(self.folder(name), ignore_errors=True)

    def names(self) -> frozenset[str]:
        """Every name with a folder here, and every living process that says it is from here."""
        folders = {path.name for path in self.root.iterdir() if path.is_dir()}
        return frozenset(
            {name for name in folders if NAME.fullmatch(name)}
            | {name for name, _ in self._marked()}
        )

    def sweep_orphans(self, known: Callable[[frozenset[str]], Collection[str]]) -> frozenset[str]:
        """Forget every process that nobody knows; answers with their names.

        `known` is given the names that exist here and says which of them are wanted; it is asked
        after they were listed, so that one started meanwhile is never taken for an orphan.
        """
        names = self.names()
        orphans = names - frozenset(known(names))
        for name in orphans:
            self.forget(name)
        for name in names - orphans:
            self.trim_log(name)
        return orphans

    def log_tail(self, name: str, *, limit_bytes: int = 8000) -> str:
        """The end of what the process said; empty if it said nothing."""
        try:
            with self.log_path(name).open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - limit_bytes))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def trim_log(self, name: str) -> None:
        """Move a log that has grown past LOG_LIMIT_BYTES to `log.1`. The process appends to the
        file it holds open, so that file is copied and emptied, never replaced."""
        path = self.log_path(name)
        with suppress(FileNotFoundError):
            if path.stat().st_size > LOG_LIMIT_BYTES:
                shutil.copyfile(path, path.with_name("log.1"))
                os.truncate(path, 0)

    def _mark(self, name: str) -> str:
        return f"{self._home}/{name}"

    def _record(self, name: str, record: Record) -> None:
        _write(self.folder(name) / "process.json", json.dumps(asdict(record)))

    def _read(self, name: str) -> Record | None:
        try:
            return Record(**json.loads((self.folder(name) / "process.json").read_text()))
        except FileNotFoundError:
            return None

    def _adopt(self, name: str, record: Record, pid: int) -> Record:
        record = replace(record, pid=pid, born=birth(pid))
        self._record(name, record)
        return record

    def _lives(self, record: Record) -> bool:
        if record.pid is None:
            return False
        if (child := self._children.get(record.pid)) is not None:
            return child.poll() is None
        return record.born != "" and birth(record.pid) == record.born

    def _ended(self, name: str, record: Record) -> Record:
        child = self._children.pop(record.pid, None) if record.pid else None
        self._kill_left(name, record)
        code = child.returncode if child is not None else None
        record = replace(record, ended_at=time.time(), returncode=code)
        self._record(name, record)
        return record

    def _find(self, name: str) -> int | None:
        """The living process of that name, by its mark: its children carry it too, but only the
        first one leads a session."""
        for marked, process in self._marked():
            if marked == name:
                with suppress(ProcessLookupError):
                    if os.getsid(process.pid) == process.pid:
                        return process.pid
        return None

    def _kill_left(self, name: str, record: Record | None) -> None:
        """Kill what carries the name's mark, and what is in a session with it. A child that gave
        itself a title has overwritten its mark: such ones are known by the recorded session."""
        ours: set[int] = set()
        for marked, process in self._marked():
            if marked == name:
                with suppress(ProcessLookupError):
                    ours.add(os.getsid(process.pid))
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    self._reap(process.pid)
        recorded = record.pid if record is not None and _may_be_left(record) else None
        for pid in psutil.pids():
            with suppress(ProcessLookupError, PermissionError):
                session = os.getsid(pid)
                if session == os.getsid(0):
                    continue
                if session in ours or (session == recorded and _has_lost_its_mark(pid)):
                    os.kill(pid, signal.SIGKILL)
                    self._reap(pid)

    def _reap(self, pid: int) -> None:
        if (child := self._children.pop(pid, None)) is not None:
            child.wait()  # it was killed: this returns at once

    def _marked(self) -> Iterator[tuple[str, psutil.Process]]:
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                home, _, name = process.environ().get(MARK, "").partition("/")
                if home == self._home and NAME.fullmatch(name):
                    yield name, process


def _may_be_left(record: Record) -> bool:
    """Whether a session of the recorded number may still be the record's: nobody else leads it,
    and the machine has not been started anew."""
    if record.pid is None or not record.born:
        return False
    now = birth(record.pid)
    try:
        return now == record.born or (not now and record.born.startswith(_boot()))
    except OSError:  # not Linux
        return now == record.born


def _has_lost_its_mark(pid: int) -> bool:
    """A title that is shorter than the command line before it fills the environment with zeros."""
    try:
        return (PROC / str(pid) / "environ").read_bytes()[:1] == b"\0"
    except OSError:
        return False


def _boot() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def birth(pid: int) -> str:
    """When the living process `pid` began, to tell it from a later one that got the same number;
    empty if there is none, or a zombie.

    On Linux: the boot it began in, and clock ticks since then (proc(5), stat field 22), which no
    correction of the clock moves.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return f"{_boot()} {fields[19]}"
    except psutil.NoSuchProcess:
        return ""
    except OSError:
        return _birth_elsewhere(pid)


def _birth_elsewhere(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def _write(path: Path, text: str) -> None:
    """Replace the file in one step, readable by its owner alone."""
    beside = path.with_name(path.name + ".new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
