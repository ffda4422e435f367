"""Other engines for real: started, asked, drained, killed by the agent's own hands.

Off unless asked for (`-m engines`). They are installed on first use by scripts/engine_environment.py,
under FACTORY_TEST_ENGINES or in the user's cache folder, which takes minutes and gigabytes.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from agent.engine_host import LocalEngineHost
from engines import failures, installed
from engines.host import Seen, ServeSpec
from engines.tests.make import ROOT, free_port, make_adapter, make_spec

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

START_SECONDS = 400.0
NOTES = [
    "Repeat: the red box is on the table",
    "Say it again: my code is K7Q2",
    "Read the note and repeat it: Anna lives in Rome",
]


@dataclass(frozen=True)
class Foreign:
    """An engine, the environment it comes in, and how it is started quickest."""

    engine: str
    environment: str
    arguments: dict[str, Any]
    takes_adapters: bool


ENGINES = {
    "vllm": Foreign("vllm", "vllm-cpu", {"enforce-eager": True}, True),  # compiling adds a minute
    "llamacpp": Foreign("llamacpp", "llamacpp", {}, False),
}


@pytest.fixture(scope="module", params=sorted(ENGINES))
def foreign(request: pytest.FixtureRequest) -> Foreign:
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def homes(foreign: Foreign) -> dict[str, Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("FACTORY_TEST_ENGINES") or cache / "ai-factory" / "engines")
    script = ROOT / "scripts" / "engine_environment.py"
    into = root / foreign.engine
    subprocess.run([sys.executable, script, foreign.environment, "--into", into], check=True)
    return installed.homes(root, {})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's model: what an engine makes of it is kept beside it."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    shutil.copytree(ROOT / "demo" / "tiny_qwen3" / "model", folder)
    return folder


@pytest.fixture
def host(tmp_path: Path, homes: dict[str, Path]) -> Iterator[LocalEngineHost]:
    made = LocalEngineHost(tmp_path / "engines", homes=homes)
    yield made
    for name in made.processes.names():
        made.processes.forget(name)


def until(holds: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def spec_of(foreign: Foreign, model: Path, **changes: Any) -> ServeSpec:
    values: dict[str, Any] = {
        "name": "a",
        "engine": foreign.engine,
        "model_path": str(model),
        "dtype": "auto",
        "threads": 2,
        "cores": sorted(os.sched_getaffinity(0))[:2],
        "max_context_tokens": 512,
        "max_concurrency": 4,
        "memory_bytes": 4 * 2**30,
        "device_memory_bytes": 8 * 2**30,
        "drain_seconds": 60.0,
        "arguments": foreign.arguments,
    }
    return make_spec(**values | changes)


def started(host: LocalEngineHost, spec: ServeSpec) -> openai.OpenAI:
    host.start(spec)

    def is_healthy() -> bool:
        seen = host.observe(spec.name)
        assert seen is not Seen.EXITED, host.log_tail(spec.name)
        return seen is Seen.HEALTHY

    until(is_healthy, seconds=START_SECONDS)
    return openai.OpenAI(
        base_url=f"http://{spec.host}:{spec.port}/v1", api_key=spec.token, max_retries=0, timeout=60
    )


def family(host: LocalEngineHost) -> list[psutil.Process]:
    pid = host.pid("a")
    assert pid is not None
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_answers_drains_and_leaves_nothing(
    host: LocalEngineHost, foreign: Foreign, model: Path
) -> None:
    spec = spec_of(foreign, model)
    client = started(host, spec)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    assert [each.id for each in client.models.list()] == ["tiny"]
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": NOTES[0]}], max_tokens=12, temperature=0
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12
    pieces = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": NOTES[0]}],
        max_tokens=12,
        temperature=0,
        stream=True,
    )
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert streamed == answer.choices[0].message.content
    assert spec.token not in host.log_tail("a")
    adopted = LocalEngineHost(host.processes.root, homes=host._homes)
    assert adopted.observe("a") is Seen.HEALTHY
    assert adopted.pid("a") == host.pid("a")

    processes = family(host)
    ended: list[str | None] = []
    stream = client.completions.create(
        model="tiny", prompt="Once", max_tokens=300, stream=True, extra_body={"ignore_eos": True}
    )
    next(stream)
    reader = threading.Thread(
        target=lambda: ended.extend(piece.choices[0].finish_reason for piece in stream)
    )
    reader.start()
    host.stop("a")
    reader.join(timeout=60)
    assert ended[-1] == "length"  # what was open when it was asked to end came to its end

    def is_gone() -> bool:
        host.stop("a")
        return host.observe("a") is Seen.ABSENT

    until(is_gone)
    until(lambda: not any(lives(each) for each in processes), seconds=10)


def test_of_a_killed_one_no_child_is_left(
    host: LocalEngineHost, foreign: Foreign, model: Path
) -> None:
    started(host, spec_of(foreign, model))
    processes = family(host)
    processes[0].send_signal(signal.SIGKILL)
    until(lambda: host.observe("a") is Seen.EXITED)
    until(lambda: not any(lives(each) for each in processes), seconds=10)
    ended = host.ended("a")
    assert ended is not None
    assert "SIGKILL" in failures.explain(ended.log, ended).text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"max_context_tokens": 99_999}, {"vllm": "context_too_long"}),
        ({"port": 0}, {"vllm": "port_taken", "llamacpp": "port_taken"}),
    ],
    ids=["context", "port"],
)
def test_why_it_could_not_start_is_told(
    host: LocalEngineHost,
    foreign: Foreign,
    model: Path,
    changes: dict[str, Any],
    code: dict[str, str],
) -> None:
    if foreign.engine not in code:
        pytest.skip("llama.cpp cuts a context that is too long to the model's own")

    with socket.create_server(("127.0.0.1", free_port())) as taken:
        if "port" in changes:
            changes = {"port": taken.getsockname()[1]}
        host.start(spec_of(foreign, model, **changes))
        until(lambda: host.observe("a") is Seen.EXITED, seconds=START_SECONDS)
    ended = host.ended("a")
    assert ended is not None
    assert failures.explain(ended.log, ended).code == code[foreign.engine], ended.log


def test_its_greedy_answers_are_those_of_the_built_in_engine(
    host: LocalEngineHost, foreign: Foreign, model: Path, tmp_path: Path
) -> None:
    """Shows that weights, tokenizer and template came over whole, and adapters where it has them:
    those are loaded into both engines by the same requests."""
    changes: dict[str, Any] = {"dtype": "float32"}
    names = ["tiny"]
    if foreign.takes_adapters:
        make_adapter(tmp_path / "adapter", model)
        changes |= {"adapter_folders": [str(tmp_path)], "max_adapters": 2}
        names.append("tuned")
    told = spec_of(foreign, model, **changes)
    own = spec_of(foreign, model, name="b", engine="transformers", arguments={}, **changes)
    answers = []
    for spec in (told, own):
        client = started(host, spec)
        for name in names[1:]:
            body = {"lora_name": name, "lora_path": str(tmp_path / "adapter")} | {
                "load_inplace": True
            }
            client.post("/load_lora_adapter", body=body, cast_to=str)
        answers.append([greedy(client, name, note) for name in names for note in NOTES])
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == len(answers[0])  # an adapter's are not its base's


def greedy(client: openai.OpenAI, name: str, note: str) -> str | None:
    answer = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": note}], max_tokens=24, temperature=0
    )
    return answer.choices[0].message.content
