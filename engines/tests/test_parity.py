"""Greedy answers and logprobs against transformers' own modules, in float32."""

import random
import threading
from functools import partial
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engines.backend import Counts, Delta
from engines.builtin import engine as builtin
from engines.builtin.blocks import Blocks
from engines.builtin.pace import Pace
from engines.protocol.requests import Request, Sampling
from engines.tests.make import make_model, make_spec
from engines.tests.make_families import FAMILIES, make_family

NEW_TOKENS = 40
COUNT = 24  # where there are many answers
MODELS: dict[str, dict[str, Any]] = {
    "qwen3": {"family": "qwen3"},
    "qwen3-tied-bias": {
        "family": "qwen3",
        "tie_word_embeddings": True,
        "attention_bias": True,
        "num_key_value_heads": 4,
    },
    "qwen2": {"family": "qwen2"},
    "qwen2-yarn": {
        "family": "qwen2",
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    # Named in FAMILIES, with some layers dense. (Of seed 0, one draw of the test of seeds falls
    # between two tokens whose logits are equal within rounding.)
    "qwen3_moe": {"seed": 1},
    "qwen3_moe-plain": {},
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    make = partial(make_family, name=request.param) if request.param in FAMILIES else make_model
    return make(tmp_path_factory.mktemp(request.param), **MODELS[request.param])


@pytest.fixture(scope="module")
def reference(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # both go on to the same length
    return model


def prompts(lengths, *, seed):
    dice = random.Random(seed)
    return [[dice.randrange(3, 400) for _ in range(length)] for length in lengths]


class Collector:
    """Runs requests through a loaded engine and gathers what each gained."""

    def __init__(self, folder, **changes):
        self.deltas: dict[object, list[Delta]] = {}
        self.open = 0
        self.changed = threading.Condition()
        spec = make_spec(model_path=str(folder), max_context_tokens=512, **changes)
        self.engine = builtin.load(spec, publish=self._publish)
        self.thread = threading.Thread(target=self.engine.scheduler.run)
        self.thread.start()

    def run(self, requests, *, adapters=None):
        """Submits all at once; each request's deltas. `adapters`: whose each of them is."""
        batch = []
        for ticket, request in enumerate(requests):
            adapter = adapters[ticket] if adapters else None
            answers, _ = self.engine.answers(request, ticket=ticket, adapter=adapter)
            self.deltas[ticket] = []
            batch += answers
        self.open = len(batch)
        self.answers = batch
        self.engine.scheduler.submit(batch)
        with self.changed:
            assert self.changed.wait_for(lambda: self.open == 0, timeout=60)
        return [self.deltas[ticket] for ticket in range(len(requests))]

    def tokens(self, asked, **rules):
        """The generated ids for each prompt, all in one batch."""
        rules = {"temperature": 0.0, "max_tokens": NEW_TOKENS, "ignore_eos": True} | rules
        self.run([ask(prompt, **rules) for prompt in asked])
        return [
            answer.tokens[len(prompt) :] for answer, prompt in zip(self.answers, asked, strict=True)
        ]

    def close(self):
        self.engine.scheduler.stop()
        self.thread.join(timeout=10)

    def _publish(self, news):
        with self.changed:
            for answer, what in news:
                assert isinstance(what, Delta), what
                self.deltas[answer.ticket].append(what)
                self.open -= what.finish_reason is not None
            self.changed.notify_all()


def ask(prompt, **rules):
    return Request(is_chat=False, model="tiny", prompts=[prompt], sampling=Sampling(**rules))


@pytest.fixture(scope="module")
def engine(folder):
    collector = Collector(folder, max_concurrency=32)
    yield collector
    collector.close()


def generated(reference, prompt, *, count=NEW_TOKENS):
    with torch.no_grad():
        out = reference.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False)
    return out[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def asked():
    """Thirty-two of all lengths, in part with a common beginning."""
    dice = random.Random(1)
    own = prompts([1, 2, *(dice.randrange(3, 130) for _ in range(30))], seed=1)
    [shared] = prompts([70], seed=2)
    return [shared + each[:40] if n % 4 == 3 else each for n, each in enumerate(own)]


@pytest.fixture(scope="module")
def expected(reference, asked):
    return [generated(reference, prompt, count=COUNT) for prompt in asked]


class Way:
    """How the same answers may come about; every way must lead to the same tokens."""

    def __init__(self, *, budget=None, warm=False, pushed=False):
        self.budget = budget  # prompt tokens a step; None: as the pace says
        self.warm = warm  # the cache knows the prompts already
        self.pushed = pushed  # every few steps the last gives its memory back

    def prepare(self, engine, asked, monkeypatch):
        """Nothing may be running."""
        scheduler = engine.engine.scheduler
        scheduler._blocks = Blocks(scheduler._blocks.count)  # knows nothing
        if self.warm:
            engine.tokens(asked, max_tokens=COUNT)
        if self.budget:
            monkeypatch.setattr(Pace, "budget", lambda _, **__: self.budget)
        if self.pushed:
            monkeypatch.setattr(scheduler, "_plan", partial(self._push, scheduler, scheduler._plan))
        scheduler.counts = Counts()

    def _push(self, scheduler, plan):
        movable = scheduler._movable()
        if len(movable) > 1 and sum(each.computed for each in movable) % 5 == 0:
            scheduler._preempt(max(movable, key=lambda each: each.arrival))
        return plan()


WAYS = {
    "at once": Way(),
    "known beginnings": Way(warm=True),
    "in chunks": Way(budget=16),
    "sent away": Way(pushed=True),
    "all of it": Way(budget=24, warm=True, pushed=True),
}
HARDEST = [WAYS["in chunks"], WAYS["all of it"]]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_thirty_two_together(engine, asked, expected, way, monkeypatch):
    way.prepare(engine, asked, monkeypatch)
    assert engine.tokens(asked, max_tokens=COUNT) == expected
    counts = engine.engine.scheduler.counts
    assert (counts.prefix_hits > 0.5 * counts.prefix_queries) == way.warm
    assert (counts.preemptions > 5) == way.pushed


def test_each_alone(engine, asked, expected, monkeypatch):
    WAYS["at once"].prepare(engine, asked, monkeypatch)
    for prompt, tokens in zip(asked[:12], expected, strict=False):
        assert engine.tokens([prompt], max_tokens=COUNT) == [tokens]


def test_more_than_there_are_slots(folder, reference):
    """Answers of different lengths come and go, so that slots are handed on."""
    small = Collector(folder, max_concurrency=3)
    try:
        asked = prompts([5, 30, 12, 3, 50, 8, 21], seed=3)
        limits = [4, 30, 9, 25, 2, 17, 11]
        small.run(
            [
                ask(prompt, temperature=0.0, max_tokens=limit, ignore_eos=True)
                for prompt, limit in zip(asked, limits, strict=True)
            ]
        )
        for answer, prompt, limit in zip(small.answers, asked, limits, strict=True):
            assert answer.tokens[len(prompt) :] == generated(reference, prompt, count=limit)
    finally:
        small.close()


@pytest.mark.parametrize("way", HARDEST, ids=["chunks", "all"])
def test_logprobs(engine, reference, asked, way, monkeypatch):
    way.prepare(engine, asked, monkeypatch)
    rules = {"temperature": 0.0, "max_tokens": 12, "logprobs": 5, "ignore_eos": True}
    deltas = engine.run([ask(prompt, **rules) for prompt in asked])
    for which in (3, 11, 20):
        tokens = engine.answers[which].tokens
        with torch.no_grad():
            logits = reference(torch.tensor([tokens])).logits[0]
        expected = torch.log_softmax(logits, dim=-1)
        seen = [logprob for delta in deltas[which] for logprob in delta.logprobs]
        assert len(seen) == 12
        for position, logprob in enumerate(seen, start=len(asked[which]) - 1):
            row = expected[position]
            assert logprob.logprob == pytest.approx(float(row[tokens[position + 1]]), abs=1e-3)
            best = row.topk(5).values.tolist()
            assert [each.logprob for each in logprob.alternatives] == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("way", HARDEST, ids=["chunks", "all"])
def test_a_seed_repeats_whoever_shares_the_batch(engine, asked, way, monkeypatch):
    rules = {"temperature": 1.0, "seed": 7, "max_tokens": COUNT, "ignore_eos": True}
    mine = asked[20]
    for more in ({}, {"top_p": 0.9, "top_k": 20, "min_p": 0.01}):
        with monkeypatch.context() as plain:
            WAYS["at once"].prepare(engine, asked, plain)
            alone = engine.tokens([mine], **rules | more)
        with monkeypatch.context() as other:
            way.prepare(engine, asked, other)
            crowd = [
                ask(prompt, temperature=1.3, seed=index, max_tokens=10 + index)
                for index, prompt in enumerate(asked)
            ]
            engine.run([*crowd, ask(mine, **rules | more)])
            assert engine.answers[-1].tokens[len(mine) :] == alone[0]
    assert engine.tokens([mine], **rules | {"seed": 8}) != engine.tokens([mine], **rules)


def test_bfloat16_runs_close(folder):
    half = Collector(folder, dtype="bfloat16")
    full = Collector(folder)
    try:
        [prompt] = prompts([30], seed=7)
        rules = {"temperature": 0.0, "max_tokens": 1, "logprobs": 1, "ignore_eos": True}
        [[rough]] = half.run([ask(prompt, **rules)])
        [[exact]] = full.run([ask(prompt, **rules)])
        assert rough.logprobs[0].logprob == pytest.approx(exact.logprobs[0].logprob, abs=0.5)
    finally:
        half.close()
        full.close()
