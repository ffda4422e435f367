"""What the built-in engine refuses before anything is computed, so that nobody else feels it."""

import asyncio
import json
import threading

import pytest

from engines.builtin import constraint
from engines.builtin import engine as builtin
from engines.protocol.errors import ApiError
from engines.protocol.requests import Request, Sampling
from engines.protocol.structure import Structure
from engines.tests.make import make_spec
from engines.transformers_server import BuiltinBackend

CONTEXT = 256


@pytest.fixture(scope="module")
def engine(tiny_model):
    """Loaded; nobody steps it."""
    spec = make_spec(model_path=str(tiny_model), max_context_tokens=CONTEXT, max_concurrency=2)
    return builtin.load(spec, publish=lambda news: None)


def ask(prompt="where is my order", **more):
    sampling = Sampling(max_tokens=8)
    return Request(is_chat=False, model="tiny", prompts=[prompt], sampling=sampling, **more)


def test_a_crowd_that_comes_at_once_finds_the_same_bound(engine, tiny_model, monkeypatch):
    """While threads still prepare the first, the others must not believe the queue empty."""
    backend = BuiltinBackend(make_spec(model_path=str(tiny_model), max_waiting=3))
    backend._engine = engine
    gate = threading.Event()
    prepare = type(engine).answers

    def prepare_late(self, request, **more):
        assert gate.wait(10)
        return prepare(self, request, **more)

    monkeypatch.setattr(type(engine), "answers", prepare_late)

    async def play():
        crowd = [asyncio.create_task(backend.generate(ask())) for _ in range(40)]
        for _ in range(5):
            await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*crowd, return_exceptions=True)

    try:
        ended = asyncio.run(play())
        refused = [each for each in ended if isinstance(each, ApiError)]
        assert len(ended) - len(refused) == engine.scheduler.waiting == 2 + 3
        assert {each.code for each in refused} == {"queue_full"}
    finally:
        engine.scheduler._waiting.clear()


def test_a_text_that_can_never_fit_is_not_cut_into_tokens(engine, monkeypatch):
    looked_at = 0
    tokenizer = engine.text._fast

    class Watched:
        def encode(self, text, **more):
            nonlocal looked_at
            looked_at += len(text)
            return tokenizer.encode(text, **more)

    monkeypatch.setattr(engine.text, "_fast", Watched())
    for request, param in (
        (ask("a b " * 500_000), "prompt"),
        (
            Request(
                is_chat=True,
                model="tiny",
                messages=[{"role": "user", "content": "a b " * 500_000}],
                sampling=Sampling(),
            ),
            "messages",
        ),
    ):
        looked_at = 0
        with pytest.raises(ApiError) as caught:
            engine.answers(request, ticket=None)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)
        assert looked_at < 20 * CONTEXT


def test_a_long_text_of_few_tokens_is_read(engine):
    """Many characters alone are no reason to refuse."""
    text = "<think>" * 200
    assert len(text) > 5 * CONTEXT
    long = "<|im_start|>" * 200
    assert len(long) > 8 * (CONTEXT + 1)
    for each in (text, long):
        [answer], tokens = engine.answers(ask(each), ticket=None)
        assert tokens == len(answer.tokens) == 200


def test_a_form_too_long_to_keep_is_refused_by_name(engine):
    words = ("ab" * constraint.LONGEST,)
    structure = Structure("choice", words, param="guided_choice")
    with pytest.raises(ApiError) as caught:
        engine.answers(ask(structure=structure), ticket=None)
    assert (caught.value.status, caught.value.param) == (400, "guided_choice")
    assert len(json.dumps(caught.value.body())) < 1000
