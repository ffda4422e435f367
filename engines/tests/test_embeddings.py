"""Vectors from real processes, against transformers' hidden states."""

import base64
from array import array

import httpx
import openai
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from engines.tests.make import RunningEngine, make_embedding_model, make_spec

TEXTS = ["where is my order", "请把包裹再寄一次 🙂", "x", "the box was wet " * 40]

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_embedding_model(tmp_path_factory.mktemp("embedding"))


@pytest.fixture(scope="module")
def engine(folder, tmp_path_factory):
    spec = make_spec(
        engine="transformers",
        model_path=str(folder),
        max_context_tokens=400,
        max_concurrency=4,
    )
    running = RunningEngine(spec, tmp_path_factory.mktemp("engine"))
    yield running.wait_ready()
    running.stop()


@pytest.fixture(scope="module")
def client(engine):
    return engine.client()


def vectors(client, texts, **rules):
    return [
        each.embedding for each in client.embeddings.create(model="tiny", input=texts, **rules).data
    ]


def test_vectors_are_transformers_last_hidden_states(folder, client):
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer = client.embeddings.create(model="tiny", input=TEXTS)  # asks for base64 by itself
    lengths = []
    for text, entry in zip(TEXTS, answer.data, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        lengths.append(ids.shape[1])
        with torch.no_grad():
            hidden = model(ids).last_hidden_state[0, -1]
        expected = torch.nn.functional.normalize(hidden, dim=0).tolist()
        assert entry.embedding == pytest.approx(expected, abs=1e-4)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(lengths)


def test_forms_of_texts_and_vectors(engine, client, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    [expected] = vectors(client, TEXTS[0])
    ids = tokenizer(TEXTS[0])["input_ids"]
    for form in (ids, [ids], [TEXTS[0]]):
        assert vectors(client, form)[0] == pytest.approx(expected, abs=1e-5)
    bodies = [
        httpx.post(
            f"{engine.url}/v1/embeddings",
            json={"model": "tiny", "input": TEXTS[0], "encoding_format": form},
            headers=engine.headers,
        ).json()["data"][0]["embedding"]
        for form in ("float", "base64")
    ]
    assert bodies[0] == pytest.approx(expected, abs=1e-5)
    assert array("f", base64.b64decode(bodies[1])).tolist() == pytest.approx(bodies[0])


def test_shorter_vectors_are_of_length_one(client):
    [whole], [short] = vectors(client, "x"), vectors(client, "x", dimensions=16)
    assert len(short) == 16
    assert sum(each * each for each in short) == pytest.approx(1, abs=1e-5)
    scale = short[0] / whole[0]
    assert short == pytest.approx([each * scale for each in whole[:16]], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"input": []}, 400, "input"),
        ({"input": None}, 400, "input"),
        ({"input": [[9999]]}, 400, "input"),
        ({"input": "x y z " * 400}, 400, "input"),
        ({"dimensions": 65}, 400, "dimensions"),
        ({"encoding_format": "int8"}, 400, "encoding_format"),
        ({"truncate": True}, 400, "truncate"),
    ],
)
def test_refusals_name_the_field(engine, changes, status, param):
    body = {"model": "tiny", "input": "x"} | changes
    answer = httpx.post(f"{engine.url}/v1/embeddings", json=body, headers=engine.headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_each_kind_of_model_says_what_it_is_for(client, start):
    with pytest.raises(openai.BadRequestError, match="embeddings"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}])
    writer = start(engine="transformers").wait_ready().client()
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        vectors(writer, "x")


def test_the_fake_engine_answers_alike(start):
    client = start().wait_ready().client()
    first, second = vectors(client, ["x", "y"])
    assert len(first) == len(second) == 32
    assert first != second
    assert vectors(client, "x") == [first]
