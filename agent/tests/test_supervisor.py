import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agent import supervisor
from agent.supervisor import Life, ProcessSupervisor

pytestmark = pytest.mark.processes

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "processes"
    last = ProcessSupervisor(tmp_path / "processes")
    for name in last.names():
        last.forget(name)


def start(of: ProcessSupervisor, name: str = "a", argv: list[str] = SLEEP, **options) -> int:
    return of.start(name, argv, env={"PATH": os.environ["PATH"]}, **options)


def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def life(of: ProcessSupervisor, name: str = "a") -> Life:
    return of.observe(name).life


def test_a_living_process_is_not_started_again(root: Path) -> None:
    one = ProcessSupervisor(root)
    assert life(one) is Life.ABSENT
    pid = start(one)
    assert start(one) == pid
    assert one.observe("a").pid == pid
    assert one.names() == {"a"}


def test_the_process_is_in_a_session_of_its_own_and_speaks_to_its_log(root: Path) -> None:
    one = ProcessSupervisor(root)
    pid = start(one, spec='{"token": "s3cret"}')
    assert os.getsid(pid) == pid
    until(lambda: one.log_tail("a") == "up\n")
    assert one.log_tail("a", limit_bytes=2) == "p\n"
    assert one.spec_path("a").read_text() == '{"token": "s3cret"}'
    assert one.spec_path("a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_is_seen_with_its_code_and_may_start_anew(root: Path, code: int) -> None:
    one = ProcessSupervisor(root)
    first = start(one, argv=[sys.executable, "-c", f"raise SystemExit({code})"])
    until(lambda: life(one) is Life.EXITED)
    assert one.observe("a").returncode == code
    assert not psutil.pid_exists(first)  # reaped, no zombie
    assert ProcessSupervisor(root).observe("a").returncode == code  # kept in the record
    assert start(one) != first
    assert life(one) is Life.RUNNING


def test_signals_reach_the_whole_group(root: Path) -> None:
    family = "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(c.pid, flush=True); time.sleep(60)"
    one = ProcessSupervisor(root)
    start(one, argv=[sys.executable, "-c", family])
    until(lambda: one.log_tail("a").endswith("\n"))
    grandchild = psutil.Process(int(one.log_tail("a")))
    assert one.signal("a", signal.SIGTERM)
    until(lambda: life(one) is Life.EXITED)
    assert one.observe("a").returncode == -signal.SIGTERM
    until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)
    assert not one.signal("a", signal.SIGTERM)


def test_what_a_killed_process_leaves_behind_is_ended(root: Path) -> None:
    family = "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(c.pid, flush=True); time.sleep(60)"
    one = ProcessSupervisor(root)
    pid = start(one, argv=[sys.executable, "-c", family])
    until(lambda: one.log_tail("a").endswith("\n"))
    grandchild = psutil.Process(int(one.log_tail("a")))
    os.kill(pid, signal.SIGKILL)
    until(lambda: life(one) is Life.EXITED)
    until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


# A child that takes the mark away, as setproctitle does: zeros over its environment.
TITLED = (
    "import ctypes, os, time\n"
    "if os.fork() == 0:\n"
    "    fields = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
    "    start, end = int(fields[47]), int(fields[48])\n"
    "    ctypes.memset(start, 0, end - start)\n"
    "    print(os.getpid(), flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.mark.parametrize("is_adopted", [False, True])
def test_children_that_hide_behind_a_title_are_ended_too(root: Path, is_adopted: bool) -> None:
    one = ProcessSupervisor(root)
    pid = start(one, argv=[sys.executable, "-c", TITLED])
    until(lambda: one.log_tail("a").endswith("\n"))
    child = psutil.Process(int(one.log_tail("a")))
    assert supervisor.MARK not in child.environ()
    os.kill(pid, signal.SIGKILL)
    looking = ProcessSupervisor(root) if is_adopted else one
    until(lambda: life(looking) is Life.EXITED)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_strangers_session_of_the_same_number_is_left_alone(root: Path) -> None:
    """Its leader has ended, as a daemon's does, and its number once was our process's."""
    daemon = "import os, sys, time\nif os.fork(): sys.exit()\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    leader = subprocess.Popen(
        [sys.executable, "-c", daemon], stdout=subprocess.PIPE, start_new_session=True
    )
    assert leader.stdout is not None
    stranger = psutil.Process(int(leader.stdout.readline()))
    leader.wait()
    try:
        one = ProcessSupervisor(root)
        start(one)
        path = root / "a" / "process.json"
        record = json.loads(path.read_text())
        one.forget("a")
        (root / "a").mkdir()
        path.write_text(json.dumps(record | {"pid": leader.pid}))
        assert life(one) is Life.EXITED
        assert stranger.is_running()
    finally:
        stranger.kill()


def test_a_signal_may_be_for_the_process_alone(root: Path) -> None:
    family = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(15, lambda *_: print('asked', flush=True))\n"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(c.pid, flush=True)\n"
        "c.wait()\n"
    )
    one = ProcessSupervisor(root)
    start(one, argv=[sys.executable, "-c", family])
    until(lambda: one.log_tail("a").endswith("\n"))
    child = psutil.Process(int(one.log_tail("a")))
    assert one.signal("a", signal.SIGTERM, alone=True)
    until(lambda: one.log_tail("a").endswith("asked\n"))
    with pytest.raises(psutil.TimeoutExpired):
        child.wait(timeout=0.2)


def test_sigkill_ends_what_sigterm_does_not(root: Path) -> None:
    one = ProcessSupervisor(root)
    start(one, argv=STUBBORN)
    until(lambda: one.log_tail("a") == "up\n")
    one.signal("a", signal.SIGTERM)
    time.sleep(0.1)
    assert life(one) is Life.RUNNING
    one.signal("a", signal.SIGKILL)
    until(lambda: life(one) is Life.EXITED)


def test_another_supervisor_adopts_what_runs(root: Path) -> None:
    """As after a restart of the agent: the process is the child of somebody else."""
    program = (
        "import sys; from pathlib import Path; from agent.supervisor import ProcessSupervisor;"
        f"s = ProcessSupervisor(Path({str(root)!r}));"
        f"print(s.start('a', {SLEEP!r}, env={{}}))"
    )
    home = Path(supervisor.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=home, check=True
    )
    pid = int(done.stdout)
    one = ProcessSupervisor(root)
    assert (one.observe("a").life, one.observe("a").pid) == (Life.RUNNING, pid)
    assert start(one) == pid
    one.signal("a", signal.SIGTERM)
    until(lambda: life(one) is Life.EXITED)
    assert one.observe("a").returncode is None  # nobody of its family was there to ask


def test_a_process_started_just_before_its_agent_died_is_found(root: Path) -> None:
    one = ProcessSupervisor(root)
    pid = start(one)
    path = root / "a" / "process.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": None, "born": ""}))
    two = ProcessSupervisor(root)
    assert start(two) == pid
    assert json.loads(path.read_text())["pid"] == pid


def test_an_intent_without_a_process_is_absent(root: Path) -> None:
    one = ProcessSupervisor(root)
    start(one)
    one.signal("a", signal.SIGKILL)
    until(lambda: life(one) is Life.EXITED)
    path = root / "a" / "process.json"
    path.write_text(json.dumps({"argv": SLEEP, "started_at": time.time()}))
    assert life(one) is Life.ABSENT


def test_a_stranger_with_the_same_pid_is_neither_seen_nor_signalled(root: Path) -> None:
    stranger = subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        one = ProcessSupervisor(root)
        (root / "a").mkdir()
        boot, ticks = supervisor.birth(stranger.pid).rsplit(" ", 1)
        born = f"{boot} {int(ticks) - 1}"
        record = {"argv": SLEEP, "started_at": 1.0, "pid": stranger.pid, "born": born}
        (root / "a" / "process.json").write_text(json.dumps(record))
        assert not one.signal("a", signal.SIGKILL)
        assert life(one) is Life.EXITED
        one.forget("a")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_orphans_are_stopped_and_the_known_stay(root: Path) -> None:
    one = ProcessSupervisor(root)
    known, orphan, bare = (psutil.Process(start(one, name)) for name in ("a", "b", "c"))
    for path in (root / "c").iterdir():  # even its folder is gone
        path.unlink()
    (root / "c").rmdir()
    asked: list[frozenset[str]] = []

    def wanted(names: frozenset[str]) -> set[str]:
        asked.append(names)
        return {"a"}

    swept = ProcessSupervisor(root).sweep_orphans(wanted)
    assert swept == {"b", "c"}
    assert asked == [frozenset({"a", "b", "c"})]
    until(lambda: all(each.status() == psutil.STATUS_ZOMBIE for each in (orphan, bare)))
    assert known.status() != psutil.STATUS_ZOMBIE
    assert one.names() == {"a"}


def test_supervisors_of_other_folders_are_left_alone(root: Path, tmp_path: Path) -> None:
    other = ProcessSupervisor(tmp_path / "other")
    start(other)
    assert ProcessSupervisor(root).sweep_orphans(lambda names: ()) == frozenset()
    assert life(other) is Life.RUNNING
    other.forget("a")
    assert life(other) is Life.ABSENT


def test_a_long_log_is_moved_aside_while_the_process_writes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_LIMIT_BYTES", 1000)
    chatty = "import time\nfor i in range(600):\n  print('x' * 99, flush=True); time.sleep(0.005)"
    one = ProcessSupervisor(root)
    start(one, argv=[sys.executable, "-c", chatty])
    until(lambda: one.log_path("a").exists() and one.log_path("a").stat().st_size > 1000)
    one.sweep_orphans(lambda names: names)
    assert (root / "a" / "log.1").stat().st_size > 1000
    until(lambda: one.log_tail("a").startswith("x"))  # appended at the new end: no hole of zeros


def test_a_program_that_does_not_exist_raises_and_leaves_nothing_running(root: Path) -> None:
    one = ProcessSupervisor(root)
    with pytest.raises(FileNotFoundError):
        start(one, argv=["/no/such/program"])
    assert life(one) is Life.ABSENT


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "-a"])
def test_a_name_that_is_a_path_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no process name"):
        start(ProcessSupervisor(root), name)
