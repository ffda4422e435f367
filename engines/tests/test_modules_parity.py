"""Models that run through transformers' modules give what transformers' `generate` gives."""

import json

import pytest
import torch
import transformers

from engines.architectures import ARCHITECTURES, Way
from engines.builtin.modules_cache import OwnCaches, SlotStates
from engines.builtin.modules_runner import ModulesRunner
from engines.builtin.pace import Pace
from engines.tests.make_families import FAMILIES, make_family
from engines.tests.test_parity import Collector, ask, generated, prompts

THEIRS = [name for name in FAMILIES if not name.startswith("qwen3_moe")]  # that one has ours
COUNT = 12  # tokens of an answer
LENGTHS = [41, 1, 20, 90, 7]


@pytest.fixture(scope="module", params=THEIRS)
def folder(request, tmp_path_factory):
    return make_family(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def reference(folder):
    config = json.loads((folder / "config.json").read_text())
    model_class = getattr(transformers, config["architectures"][0])
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # both go on to the same length
    return model


@pytest.fixture(scope="module")
def expected(reference):
    return [generated(reference, prompt, count=COUNT) for prompt in prompts(LENGTHS, seed=2)]


@pytest.fixture(scope="module")
def engine(folder):
    collector = Collector(folder, max_concurrency=3)
    yield collector
    collector.close()


def test_thirty_two_at_once(folder, expected):
    """And five more, which get slots between those of others."""
    together = Collector(folder, max_concurrency=32)
    try:
        runner = together.engine.scheduler._runner
        assert isinstance(runner, ModulesRunner)
        count = 37 if runner._cache.batches else 7  # alone each pass is slow, and nothing is shared
        asked = (prompts(LENGTHS, seed=2) * 8)[:count]
        limits = [COUNT - index % 5 for index in range(count)]
        together.run(
            [
                ask(prompt, temperature=0.0, max_tokens=limit, ignore_eos=True)
                for prompt, limit in zip(asked, limits, strict=True)
            ]
        )
        for index, (answer, prompt) in enumerate(zip(together.answers, asked, strict=True)):
            wanted = expected[index % len(expected)][: limits[index]]
            assert answer.tokens[len(prompt) :] == wanted
    finally:
        together.close()


def test_together_alone_and_in_chunks(engine, expected, monkeypatch):
    """Five answers over three slots: unequal lengths, slots handed on, prompts read in parts."""
    asked = prompts(LENGTHS, seed=2)
    assert engine.tokens(asked, max_tokens=COUNT) == expected
    assert engine.tokens(asked[:1], max_tokens=COUNT) == expected[:1]
    monkeypatch.setattr(Pace, "budget", lambda self, **_: 16)
    assert engine.tokens(asked, max_tokens=COUNT) == expected


def test_answers_that_end_early_hurt_no_neighbour(engine, expected):
    """Their slots go to others, with what the modules remember of each."""
    asked = prompts(LENGTHS, seed=2)
    limits = [2, COUNT, 1, COUNT, COUNT]
    engine.run(
        [
            ask(prompt, temperature=0.0, max_tokens=limit, ignore_eos=True)
            for prompt, limit in zip(asked, limits, strict=True)
        ]
    )
    for answer, prompt, tokens, limit in zip(engine.answers, asked, expected, limits, strict=True):
        assert answer.tokens[len(prompt) :] == tokens[:limit]


def test_logprobs(engine, reference):
    [prompt] = prompts([25], seed=5)
    [deltas] = engine.run([ask(prompt, temperature=0.0, max_tokens=6, logprobs=3)])
    tokens = engine.answers[0].tokens
    with torch.no_grad():
        expected = torch.log_softmax(reference(torch.tensor([tokens])).logits[0], dim=-1)
    seen = [logprob for delta in deltas for logprob in delta.logprobs]
    assert len(seen) == len(tokens) - len(prompt)
    for position, logprob in enumerate(seen, start=len(prompt) - 1):
        row = expected[position]
        assert logprob.logprob == pytest.approx(float(row[tokens[position + 1]]), abs=1e-3)
        best = row.topk(3).values.tolist()
        assert [each.logprob for each in logprob.alternatives] == pytest.approx(best, abs=1e-3)


def test_what_may_share_a_pass_does(engine, folder):
    runner = engine.engine.scheduler._runner
    assert isinstance(runner, ModulesRunner)
    family = json.loads((folder / "config.json").read_text())["model_type"]
    assert type(runner._cache) is (OwnCaches if family.startswith("qwen4") else SlotStates)


def test_every_architecture_is_compared():
    """Those with a forward pass of ours are compared in test_parity."""
    compared = {getattr(transformers, FAMILIES[name][0]).config_class.model_type for name in THEIRS}
    ways = {Way.MODULES: compared, Way.OWN: {"qwen2", "qwen3", "qwen3_moe"}}
    for name, architecture in ARCHITECTURES.items():
        assert name in ways[architecture.way]
