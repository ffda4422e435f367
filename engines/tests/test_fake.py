"""The protocol, against the fake engine as a real process, through the official client."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from engines.tests.make import ROOT, RunningEngine, make_spec

HELLO: Any = [{"role": "user", "content": "hello there"}]

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    running = RunningEngine(make_spec(), tmp_path_factory.mktemp("fake"))
    yield running.wait_ready()
    running.stop()


def test_an_answer_is_deterministic_and_counted(engine):
    client = engine.client()
    first = client.chat.completions.create(model="tiny", messages=HELLO)
    second = client.chat.completions.create(model="tiny", messages=HELLO)
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.system_fingerprint == "fake"
    assert first.usage.prompt_tokens == 3
    assert first.usage.completion_tokens == len(first.choices[0].message.content.split()) == 16
    assert first.usage.total_tokens == 19
    assert first.choices[0].finish_reason == "stop"
    assert first.id.startswith("chatcmpl-")
    assert first.id != second.id


def test_a_stream_says_the_same(engine):
    client = engine.client()
    whole = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5)
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_on_the_wire(engine):
    body = {"model": "tiny", "messages": HELLO, "stream": True, "max_tokens": 2}
    answer = httpx.post(f"{engine.url}/v1/chat/completions", json=body, headers=engine.headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    assert '"usage"' not in answer.text


def test_several_choices(engine):
    client = engine.client()
    whole = client.chat.completions.create(model="tiny", messages=HELLO, n=3, max_tokens=4)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert whole.usage.completion_tokens == 12
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(
        model="tiny", messages=HELLO, n=3, max_tokens=4, stream=True
    ):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_forms_are_kept_to(engine):
    client = engine.client()
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"enum": ["x"]}}}
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = client.chat.completions.create(model="tiny", messages=HELLO, response_format=form)
    assert json.loads(answer.choices[0].message.content) == {"n": 0, "ok": "x"}
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": schema}}
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, tools=[tool], tool_choice="required"
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"n": 0, "ok": "x"}


def test_completions_take_several_prompts(engine):
    answer = engine.client().completions.create(
        model="tiny", prompt=["one two", "three"], n=2, max_tokens=3, logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.completion_tokens == 12
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset[1] == len(logprobs.tokens[0])


def test_models(engine):
    client = engine.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("huge")


def test_only_health_is_open(engine):
    bare = httpx.Client(base_url=engine.url)
    assert bare.get("/health").json() == {"status": "ok"}
    for path in ("/v1/models", "/metrics", "/nowhere"):
        assert bare.get(path).status_code == 401
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{engine.url}/v1", api_key="wrong", max_retries=0).models.list()
    assert httpx.get(f"{engine.url}/v1/chat/completions", headers=engine.headers).status_code == 405
    assert httpx.get(f"{engine.url}/nowhere", headers=engine.headers).status_code == 404


def test_a_hang_up_frees_the_slot(start):
    engine = start(environment={"FAKE_TOKENS": "1000", "FAKE_DELAY_SECONDS": "0.01"}).wait_ready()
    stream = engine.client().chat.completions.create(model="tiny", messages=HELLO, stream=True)
    next(iter(stream))
    engine.wait_metric("vllm:num_requests_running", 1)
    stream.close()
    engine.wait_metric("vllm:num_requests_running", 0, seconds=5)


def test_a_full_queue_refuses(start):
    engine = start(
        max_concurrency=1,
        max_waiting=1,
        environment={"FAKE_TOKENS": "1000", "FAKE_DELAY_SECONDS": "0.01"},
    ).wait_ready()
    client = engine.client()
    stream = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    engine.wait_metric("vllm:num_requests_running", 1)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(
            lambda: client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1)
        )
        engine.wait_metric("vllm:num_requests_waiting", 1)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="tiny", messages=HELLO)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
        assert caught.value.code == "queue_full"
        stream.close()
        assert second.result().choices[0].finish_reason == "length"


def test_sigterm_finishes_what_is_open(start):
    engine = start(environment={"FAKE_TOKENS": "50", "FAKE_DELAY_SECONDS": "0.02"}).wait_ready()
    client = engine.client()
    stream = iter(client.chat.completions.create(model="tiny", messages=HELLO, stream=True))
    next(stream)
    engine.terminate()
    while engine.health() != (503, '{"status":"draining"}'):
        time.sleep(0.01)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.code == "draining"
    assert list(stream)[-1].choices[0].finish_reason == "stop"
    assert engine.process.wait(timeout=20) == 0


def test_sigterm_ends_at_the_deadline(start):
    engine = start(
        drain_seconds=0.3, environment={"FAKE_TOKENS": "1000", "FAKE_DELAY_SECONDS": "0.05"}
    ).wait_ready()
    stream = iter(
        engine.client().chat.completions.create(model="tiny", messages=HELLO, stream=True)
    )
    next(stream)
    engine.terminate()
    with pytest.raises(openai.APIError, match="shutting down"):
        list(stream)
    assert engine.process.wait(timeout=20) == 0


def test_the_port_opens_before_the_engine_is_ready(start):
    engine = start(environment={"FAKE_START_SECONDS": "1"})
    while (health := engine.health())[0] == 0:
        time.sleep(0.01)
    assert health == (503, '{"status":"loading"}')
    with pytest.raises(openai.InternalServerError) as caught:
        engine.client().chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.code == "loading"
    engine.wait_ready(seconds=20)


def test_a_failed_start_says_why(start):
    engine = start(environment={"FAKE_FAIL": "no luck today"})
    assert engine.process.wait(timeout=30) == 1
    assert "no luck today" in engine.log


def test_a_taken_port_is_named(start, engine):
    second = start(port=engine.spec.port)
    assert second.process.wait(timeout=30) == 1
    assert "port_taken" in second.log


def test_a_bad_spec_is_status_2(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(make_spec().to_json().replace('"float32"', '"float7"'))
    done = subprocess.run(
        [sys.executable, "-m", "engines.fake", str(path)],
        cwd=ROOT, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "dtype" in done.stderr


def test_a_fake_engine_loads_no_torch():
    code = "import sys, engines.fake; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
