"""The real host over real fake engines."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from agent import engine_host, memory_pressure
from agent.engine_host import LocalEngineHost
from engines import launchers
from engines.host import EngineHost, Seen, SpecError
from engines.tests.make import make_spec

pytestmark = pytest.mark.processes


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "engines"
    host = LocalEngineHost(tmp_path / "engines")
    for name in host.processes.names():
        host.processes.forget(name)


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def started(root: Path, **changes: object) -> LocalEngineHost:
    host = LocalEngineHost(root)
    host.start(make_spec(name="a", **changes))
    until(lambda: host.observe("a") is Seen.HEALTHY)
    return host


def test_an_engine_is_healthy_only_after_a_real_completion(root: Path) -> None:
    local = LocalEngineHost(root)
    host: EngineHost = local
    assert host.observe("a") is Seen.ABSENT
    spec = make_spec(name="a", environment={"FAKE_START_SECONDS": "0.5"})
    host.start(spec)
    assert host.observe("a") is Seen.STARTING
    pid = host.pid("a")
    host.start(spec)
    assert host.pid("a") == pid
    until(lambda: host.observe("a") is Seen.HEALTHY)
    metrics = local._http.get(
        f"http://127.0.0.1:{spec.port}/metrics", headers={"Authorization": f"Bearer {spec.token}"}
    ).text
    answered = [line for line in metrics.splitlines() if "generation_tokens_total{" in line]
    assert answered
    assert float(answered[0].rsplit(" ", 1)[1]) == 1


def test_an_engine_whose_completions_fail_is_not_healthy(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalEngineHost(root)
    spec = make_spec(name="a")
    local.start(spec)
    until(lambda: local._answers_health(spec))
    monkeypatch.setattr(local, "_ask", lambda *_: None)
    assert local.observe("a") is Seen.STARTING
    monkeypatch.undo()
    assert local.observe("a") is Seen.HEALTHY


def test_a_killed_engine_has_exited_and_may_start_again(root: Path) -> None:
    host = started(root)
    pid = host.pid("a")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: host.observe("a") is Seen.EXITED)
    assert host.pid("a") is None
    host.start(make_spec(name="a"))
    assert host.observe("a") is Seen.STARTING  # its predecessor's health is not its own
    until(lambda: host.observe("a") is Seen.HEALTHY)


def test_an_engine_that_cannot_start_leaves_its_reason_in_the_log(root: Path) -> None:
    host = LocalEngineHost(root)
    host.start(make_spec(name="a", environment={"FAKE_FAIL": "no weights here"}))
    until(lambda: host.observe("a") is Seen.EXITED)
    assert "no weights here" in host.log_tail("a")


def test_stop_is_asked_once_and_ends_in_absence(root: Path) -> None:
    host = started(root)

    def stopped() -> bool:
        host.stop("a")
        return host.observe("a") is Seen.ABSENT

    until(stopped)
    assert not (root / "a").exists()
    host.stop("a")  # an unknown name is fine


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine taken for one that drops what is open when it is asked to end."""
    gauges = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    fake = dataclasses.replace(launchers.LAUNCHERS["fake"], open_gauges=gauges)
    monkeypatch.setitem(launchers.LAUNCHERS, "fake", fake)


def open_stream(host: LocalEngineHost) -> openai.Stream[Any]:
    spec = host._read_spec("a")
    assert spec is not None
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{spec.port}/v1", api_key=spec.token)
    stream = client.completions.create(model="tiny", prompt="x", max_tokens=40, stream=True)
    next(stream)
    return stream


def stopping(host: LocalEngineHost) -> bool:
    host.stop("a")
    return True


@pytest.mark.usefixtures("forgetful")
def test_an_engine_that_drops_requests_is_asked_to_end_once_it_has_none(root: Path) -> None:
    host = started(root, environment={"FAKE_DELAY_SECONDS": "0.05", "FAKE_TOKENS": "40"})
    stream = open_stream(host)
    host.stop("a")
    assert not host._was_asked("a").exists()
    assert sum(1 for _ in stream) > 20  # all of them came
    until(lambda: stopping(host) and host._was_asked("a").exists())
    until(lambda: stopping(host) and host.observe("a") is Seen.ABSENT)


@pytest.mark.usefixtures("forgetful")
def test_open_requests_get_their_time_and_no_more(root: Path) -> None:
    host = started(root, drain_seconds=0.5, environment={"FAKE_DELAY_SECONDS": "1"})
    with open_stream(host):
        host.stop("a")
        assert not host._was_asked("a").exists()
        until(lambda: stopping(host) and host._was_asked("a").exists(), seconds=5)


def test_the_log_that_others_read_is_without_the_token(root: Path) -> None:
    host = LocalEngineHost(root)
    host.start(make_spec(name="a", token="s3cret", environment={"FAKE_FAIL": "key is s3cret"}))
    until(lambda: host.observe("a") is Seen.EXITED)
    assert "key is ***" in host.log_tail("a")


def test_how_an_engine_ended_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = started(root)
    assert host.ended("a") is None
    pid = host.pid("a")
    assert pid is not None
    monkeypatch.setattr(memory_pressure, "count_kills", lambda: 10**9)
    os.kill(pid, signal.SIGKILL)
    until(lambda: host.observe("a") is Seen.EXITED)
    ended = host.ended("a")
    assert ended is not None
    assert (ended.returncode, ended.memory_ran_out) == (-9, True)
    assert "listening" in ended.log
    assert host.ended("b") is None


def test_an_engine_past_its_deadline_is_killed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_host, "KILL_MARGIN_SECONDS", 0.3)
    host = started(root, drain_seconds=0.0)
    pid = host.pid("a")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # deaf to SIGTERM
    host.stop("a")
    time.sleep(0.1)
    host.stop("a")
    assert host.pid("a") == pid
    time.sleep(0.4)
    host.stop("a")
    until(lambda: host.observe("a") is Seen.EXITED)


def test_an_engine_that_falls_silent_is_unhealthy_after_a_while(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_host, "HEALTH_SECONDS", 0.2)
    host = LocalEngineHost(root, silence_seconds=0.5)
    host.start(make_spec(name="a"))
    until(lambda: host.observe("a") is Seen.HEALTHY)
    pid = host.pid("a")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert host.observe("a") is Seen.HEALTHY  # one missed answer says nothing
    until(lambda: host.observe("a") is Seen.UNHEALTHY, seconds=5)
    os.kill(pid, signal.SIGCONT)
    until(lambda: host.observe("a") is Seen.HEALTHY)


def test_another_host_adopts_a_healthy_engine_without_asking_it_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = started(root).pid("a")
    after = LocalEngineHost(root)
    monkeypatch.setattr(after, "_completes", lambda spec: pytest.fail("asked again"))
    assert after.observe("a") is Seen.HEALTHY
    assert after.pid("a") == pid


def test_the_engine_knows_none_of_the_agents_secrets(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@h/d")
    host = started(root)
    pid = host.pid("a")
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"secret" not in environment
    assert b"AI_FACTORY_PROCESS" in environment


def test_an_unknown_engine_is_refused(root: Path) -> None:
    with pytest.raises(SpecError):
        LocalEngineHost(root).start(make_spec(name="a", engine="steam"))
