"""Adapters on running engines, over HTTP: the built-in one and the fake one."""

import json
import threading
import time

import httpx
import pytest

from engines.tests.make import RunningEngine, make_adapter, make_spec

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def root(tiny_model, tmp_path_factory):
    """A folder with three adapters: one, two, and one that is none."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two")):
        make_adapter(root / name, tiny_model, seed=seed)
    (root / "bad").mkdir()
    (root / "bad" / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    return root


@pytest.fixture(scope="module", params=["transformers", "fake"])
def running(request, root, tiny_model, tmp_path_factory):
    spec = make_spec(
        engine=request.param,
        model_path=str(tiny_model),
        adapter_folders=[str(root)],
        max_adapters=1,
        max_concurrency=4,
        max_context_tokens=400,
    )
    started = RunningEngine(spec, tmp_path_factory.mktemp("engine"))
    yield started.wait_ready()
    started.stop()


@pytest.fixture
def engine(running):
    yield running
    models = httpx.get(f"{running.url}/v1/models", headers=running.headers).json()["data"]
    for each in models:
        if each["parent"]:
            post(running, "unload_lora_adapter", lora_name=each["id"])


def post(engine, route, **body):
    return httpx.post(f"{engine.url}/v1/{route}", json=body, headers=engine.headers, timeout=30)


def text(engine, model, **more):
    answer = engine.client().chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "where is 12?"}],
        temperature=0,
        max_tokens=12,
        **more,
    )
    assert answer.model == model
    return answer.choices[0].message.content


def test_load_ask_list_unload(engine, root):
    paths = {name: str(root / name) for name in ("one", "two")}
    base = text(engine, "tiny")
    for name, path in paths.items():
        answer = post(engine, "load_lora_adapter", lora_name=name, lora_path=path)
        assert (answer.status_code, "Success" in answer.text) == (200, True)
    listed = httpx.get(f"{engine.url}/v1/models", headers=engine.headers).json()["data"]
    assert [(each["id"], each["parent"], each["root"]) for each in listed] == [
        ("tiny", None, "tiny"),
        ("one", "tiny", paths["one"]),
        ("two", "tiny", paths["two"]),
    ]
    # One place in memory, three models in turns: each is read again whenever it is asked for.
    said = {name: text(engine, name) for name in ("one", "two", "one", "two")}
    assert len({base, *said.values()}) == 3
    assert {name: text(engine, name) for name in paths} == said
    assert text(engine, "tiny") == base
    assert post(engine, "unload_lora_adapter", lora_name="one").status_code == 200
    assert post(engine, "unload_lora_adapter", lora_name="one").status_code == 404
    gone = post(engine, "chat/completions", model="one", messages=[])
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    load = {"lora_name": "one", "lora_path": paths["one"]}
    assert post(engine, "load_lora_adapter", **load).status_code == 200
    assert text(engine, "one") == said["one"]


def test_refusals(engine, root):
    url = f"{engine.url}/v1/load_lora_adapter"
    body = {"lora_name": "one", "lora_path": str(root / "one")}
    assert httpx.post(url, json=body).status_code == 401
    assert httpx.get(url, headers=engine.headers).status_code == 405
    for changes, status, param in (
        ({"lora_name": None}, 400, "lora_name"),
        ({"lora_path": 5}, 400, "lora_path"),
        ({"lora_path": "/etc"}, 400, "lora_path"),
        ({"lora_path": str(root / "none")}, 404, "lora_path"),
    ):
        answer = post(engine, "load_lora_adapter", **body | changes)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert post(engine, "load_lora_adapter", **body).status_code == 200
    assert post(engine, "load_lora_adapter", **body).status_code == 400
    if engine.spec.engine == "transformers":
        bad = post(engine, "load_lora_adapter", lora_name="bad", lora_path=str(root / "bad"))
        assert (bad.status_code, "only LORA" in bad.text) == (400, True)


def test_an_answer_that_has_begun_outlives_unloading(engine, root):
    for name in ("one", "two"):
        post(engine, "load_lora_adapter", lora_name=name, lora_path=str(root / name))
    long = {"max_tokens": 300, "extra_body": {"ignore_eos": True}}
    whole = engine.client().completions.create(model="one", prompt="where", temperature=0, **long)
    stream = engine.client().completions.create(
        model="one", prompt="where", temperature=0, stream=True, **long
    )
    pieces = [next(stream).choices[0].text]
    assert post(engine, "unload_lora_adapter", lora_name="one").status_code == 200
    other = threading.Thread(target=lambda: pieces.append(("two", text(engine, "two"))))
    other.start()  # waits for the only place
    streamed = [chunk.choices[0].text for chunk in stream]
    assert pieces[0] + "".join(streamed) == whole.choices[0].text
    other.join(timeout=30)
    assert pieces[1][0] == "two"
    deadline = time.monotonic() + 10
    while engine.metric("vllm:num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert engine.metric("vllm:num_requests_running") == 0
