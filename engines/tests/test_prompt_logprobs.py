"""How likely a prompt is: what the engine says of it against transformers' own logits."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from engines.backend import Delta
from engines.builtin import engine as builtin
from engines.builtin import scheduler as scheduling
from engines.builtin import scoring
from engines.protocol.errors import ApiError
from engines.protocol.requests import Sampling, read_completion
from engines.protocol.responses import Choice, Shape, Usage
from engines.tests.make import make_adapter, make_spec

TEXT = "where is my order 1234567890 it should have come to the city of Berlin yesterday " * 3


FOUND: dict[int, list] = {}  # by scheduler, what it published


def body(**changes):
    asked = {"model": "tiny", "prompt": TEXT, "echo": True, "logprobs": 2, "max_tokens": 0}
    return read_completion(asked | changes, models={"tiny", "mine"}, defaults=Sampling())


def load(folder, **changes):
    spec = make_spec(model_path=str(folder), max_context_tokens=512, max_concurrency=4, **changes)
    found: list = []
    loaded = builtin.load(spec, publish=found.extend)
    FOUND[id(loaded.scheduler)] = found
    return loaded


def run(engine, request, *, adapter=None):
    """The choices of a request, each as a completion's body has it."""
    answers, prompt_tokens = engine.answers(request, ticket=None, adapter=adapter)
    FOUND[id(engine.scheduler)].clear()
    engine.scheduler.submit(answers)
    while engine.scheduler.running or engine.scheduler.waiting:
        engine.scheduler._step()
    choices = [Choice() for _ in answers]
    tokens = 0
    for answer, what in FOUND[id(engine.scheduler)]:
        assert isinstance(what, Delta), what
        choices[answer.index].logprobs += what.logprobs
        choices[answer.index].finish_reason = what.finish_reason
        tokens += what.tokens
    shape = Shape(is_chat=False, model="tiny", fingerprint="", with_logprobs=True)
    told = shape.whole(choices, Usage(prompt_tokens, tokens))
    return SimpleNamespace(
        choices=[each["logprobs"] for each in told["choices"]],
        reasons=[each["finish_reason"] for each in told["choices"]],
        usage=told["usage"],
        ids=[answer.tokens for answer in answers],
    )


def expected(folder, ids, *, adapter=None):
    """Log-probabilities of every following token, by transformers in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0]
    told = logits.float().log_softmax(-1)
    return told[torch.arange(len(ids) - 1), torch.tensor(ids[1:])], told


@pytest.fixture(scope="module")
def engine(tiny_model):
    return load(tiny_model)


def check(choice, ids, folder, *, adapter=None):
    want, told = expected(folder, ids, adapter=adapter)
    assert choice["token_logprobs"][0] is None
    assert choice["top_logprobs"][0] is None
    seen = torch.tensor(choice["token_logprobs"][1 : len(ids)])
    assert torch.allclose(seen, want, atol=2e-4), (seen - want).abs().max()
    best = told[:-1].max(-1).values
    top = torch.tensor([max(each.values()) for each in choice["top_logprobs"][1 : len(ids)]])
    assert torch.allclose(top, best, atol=2e-4)


@pytest.mark.parametrize("rows", [1000, 7])
def test_of_a_text_as_transformers_has_them(engine, tiny_model, monkeypatch, rows):
    """However few rows of logits a step may make, the figures are the same."""
    monkeypatch.setattr(scheduling, "TOKENS_A_STEP", rows)
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", 3)
    made = []
    inner = engine.runner.run

    def watched(work):
        logits = inner(work)
        made.append(len(logits))
        return logits

    monkeypatch.setattr(engine.runner, "run", watched)
    found = run(engine, body())
    [choice] = found.choices
    assert len(choice["tokens"]) == len(found.ids[0]) > 40
    assert "".join(choice["tokens"]) == TEXT
    assert (found.reasons, found.usage["completion_tokens"]) == (["length"], 0)
    assert max(made) <= max(rows, 1)
    check(choice, found.ids[0], tiny_model)


def test_by_strings_and_by_token_ids_and_what_was_read_before_is_read_again(engine, tiny_model):
    warm = run(engine, body(echo=False, logprobs=None, max_tokens=1))  # its blocks are known now
    ids = warm.ids[0][:-1]
    by_ids = run(engine, body(prompt=ids))
    both = run(engine, body(prompt=[TEXT, "order of Berlin"], logprobs=0))
    check(by_ids.choices[0], ids, tiny_model)
    check(run(engine, body()).choices[0], ids, tiny_model)
    assert both.choices[0]["token_logprobs"][1:] == pytest.approx(
        by_ids.choices[0]["token_logprobs"][1:], abs=1e-4
    )
    assert [len(each) for each in both.choices[1]["top_logprobs"][1:]] == [1] * (
        len(both.ids[1]) - 1
    )


def test_an_answer_after_the_prompt_is_told_too(engine, tiny_model):
    found = run(engine, body(max_tokens=3, temperature=0, ignore_eos=True))
    [choice], [ids] = found.choices, found.ids
    assert len(choice["token_logprobs"]) == len(ids)
    assert found.usage["completion_tokens"] == 3
    check(choice, ids, tiny_model)
    # One that ends at once still has its entry: readers cut off the last one unseen.
    ended = run(engine, body(max_tokens=1, temperature=0, stop_token_ids=[ids[-3]]))
    assert ended.reasons == ["stop"]
    assert len(ended.choices[0]["token_logprobs"]) == len(ids) - 2


def test_a_single_token_and_a_full_context(engine):
    one = run(engine, body(prompt=[5]))
    assert one.choices[0]["token_logprobs"] == [None]
    whole = run(engine, body(prompt=[5 + at % 50 for at in range(512)]))
    assert len(whole.choices[0]["token_logprobs"]) == 512
    with pytest.raises(ApiError) as caught:
        run(engine, body(prompt=[5] * 513))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_of_an_adapter(engine, tiny_model, tmp_path):
    folder = make_adapter(tmp_path / "mine", tiny_model, seed=3)
    adapter = engine.read_adapter(folder)
    run(engine, body(model="mine"), adapter=adapter)
    found = run(engine, body(model="mine"), adapter=adapter)
    check(found.choices[0], found.ids[0], tiny_model, adapter=folder)
    base = run(engine, body())
    assert found.choices[0]["token_logprobs"][1:] != pytest.approx(
        base.choices[0]["token_logprobs"][1:], abs=1e-3
    )


def test_beside_others_and_after_being_sent_away(engine, tiny_model):
    """Answers that write share its steps; one that must make room begins again and says no less."""
    alone = run(engine, body()).choices[0]["token_logprobs"][1:]
    scheduler = engine.scheduler
    scored, _ = engine.answers(body(), ticket=None)
    writers, _ = engine.answers(
        body(prompt=["a b c", "d e f"], echo=False, logprobs=None, max_tokens=20), ticket=None
    )
    FOUND[id(scheduler)].clear()
    scheduler.submit([*writers, *scored])
    scheduler._step()
    if scored[0] in scheduler._running:
        scheduler._preempt(scored[0])
    while scheduler.running or scheduler.waiting:
        scheduler._step()
    told = [
        each
        for answer, what in FOUND[id(scheduler)]
        if answer is scored[0]
        for each in what.logprobs
    ]
    assert [each.logprob for each in told[1:]] == pytest.approx(alone, abs=1e-4)


def test_with_transformers_own_modules(tiny_model, monkeypatch):
    monkeypatch.setattr(builtin, "has_own_forward", lambda config: False)
    monkeypatch.setattr(scheduling, "TOKENS_A_STEP", 16)
    engine = load(tiny_model)
    found = run(engine, body(max_tokens=2, temperature=0))
    check(found.choices[0], found.ids[0], tiny_model)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": 0, "echo": False}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": 3}, "prompt_logprobs"),
    ],
)
def test_what_is_refused_names_its_field(changes, param):
    with pytest.raises(ApiError) as caught:
        body(**changes)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_in_bfloat16_as_the_same_engine_says_when_it_writes(tiny_model):
    """Through the compiled kernels, where they can be had."""
    engine = load(tiny_model, dtype="bfloat16")
    wrote = run(engine, body(echo=False, max_tokens=6, temperature=0, ignore_eos=True))
    [ids] = wrote.ids
    read = run(engine, body(prompt=ids)).choices[0]["token_logprobs"]
    assert read[-6:] == pytest.approx(wrote.choices[0]["token_logprobs"], abs=0.05)
