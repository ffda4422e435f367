"""The load client against real engine processes and against servers that misbehave."""

import asyncio
import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest

from engines.load_client import Load, LoadResult, LoadSpec, milliseconds
from engines.tests.make import RunningEngine


def spec_for(engine: RunningEngine, **fields: Any) -> LoadSpec:
    values: dict[str, Any] = {
        "base_url": engine.url,
        "key": engine.spec.token,
        "model": engine.spec.served_model_name,
        "clients": 4,
        "seconds": 1.0,
        "output_tokens": 8,
        "grace_seconds": 10.0,
    }
    return LoadSpec(**values | fields)


@pytest.fixture
def fake_engine(start) -> RunningEngine:
    engine: RunningEngine = start(environment={"FAKE_TOKENS": "100", "FAKE_DELAY_SECONDS": "0.02"})
    return engine.wait_ready()


def run(spec: LoadSpec) -> LoadResult:
    done = subprocess.run(
        [sys.executable, "-m", "engines.load_client"],
        input=json.dumps(asdict(spec)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert spec.key not in done.stdout + done.stderr
    return LoadResult.read(done.stdout)


def test_it_measures_what_the_engine_really_does(fake_engine: RunningEngine) -> None:
    result = run(spec_for(fake_engine))
    assert (result.clients, result.failures, result.problems) == (4, 0, [])
    assert result.requests >= 4
    assert result.output_tokens == 8 * result.requests
    # 8 tokens 20 ms apart: 160 ms a request, 4 clients
    assert 60 < result.tokens_per_second < 4 * 8 / 0.140
    assert 15 < (result.itl_p50_milliseconds or 0) < 60
    assert (result.ttft_p50_milliseconds or 0) <= (result.ttft_p95_milliseconds or 0)


def test_refusals_are_failures_with_their_words(fake_engine: RunningEngine) -> None:
    result = run(spec_for(fake_engine, model="nobody", seconds=0.3))
    assert result.failures == result.requests > 0
    assert result.output_tokens == 0
    assert result.ttft_p50_milliseconds is None
    assert "404" in result.problems[0]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "Expecting value"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n',
            "before its end",
        ),
        (b"", "IncompleteReadError"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "503"),
    ],
)
async def test_a_server_that_misbehaves_is_a_failure_and_no_crash(answer, problem) -> None:
    async def misbehave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(misbehave, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        load = LoadSpec(
            base_url=f"http://127.0.0.1:{port}", key="k", model="m", clients=1, seconds=0.1
        )
        result = await Load(load).run()
    assert result.failures == result.requests >= 1
    assert problem in " ".join(result.problems)


async def test_answers_that_never_come_end_with_the_grace() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    load = LoadSpec(
        base_url=f"http://127.0.0.1:{port}",
        key="k",
        model="m",
        clients=2,
        seconds=0.1,
        grace_seconds=0.3,
    )
    result = await asyncio.wait_for(Load(load).run(), 5)
    server.close()
    assert (result.requests, result.failures) == (2, 2)


def test_the_share_of_samples_is_the_nearest_rank() -> None:
    samples = [n / 1000 for n in range(1, 101)]
    assert milliseconds(samples, 0.5) == 50
    assert milliseconds(samples, 0.95) == 95
    assert milliseconds([0.007], 0.95) == 7
    assert milliseconds([], 0.5) is None
