"""The built-in engine as a real process, through the official client."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines.tests.make import RunningEngine, make_spec
from engines.tests.make_families import make_family

ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "where is 12?"}]
GREEDY: dict[str, Any] = {"model": "tiny", "messages": ASKED, "temperature": 0, "max_tokens": 30}
NEVER_ENDS: dict[str, Any] = {"extra_body": {"ignore_eos": True}}

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def engine(tiny_model, tmp_path_factory):
    spec = make_spec(
        engine="transformers",
        model_path=str(tiny_model),
        max_context_tokens=400,
        max_concurrency=8,
    )
    running = RunningEngine(spec, tmp_path_factory.mktemp("engine"))
    while (health := running.health())[0] == 0:  # the port opens before torch is even imported
        time.sleep(0.01)
    assert health == (503, '{"status":"loading"}')
    yield running.wait_ready()
    running.stop()


@pytest.fixture(scope="module")
def client(engine):
    return engine.client()


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def streamed(chunks):
    """Each choice's text and reason, and the usage, from a stream."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usage = None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                assert choice.index not in reasons
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, usage


def test_the_text_is_transformers_own(client, tiny_model, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_tensors="pt")
    ids = ids["input_ids"] if hasattr(ids, "keys") else ids
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :]
    answer = client.chat.completions.create(**GREEDY)
    expected = tokenizer.decode(out, skip_special_tokens=True)
    content = answer.choices[0].message.content
    assert content == expected or content + "\ufffd" == expected  # an unfinished character
    assert answer.usage.prompt_tokens == ids.shape[1]
    assert answer.usage.completion_tokens == len(out)
    assert answer.choices[0].finish_reason == ("length" if len(out) == 30 else "stop")


def test_a_stream_gives_the_same(client):
    whole = client.chat.completions.create(**GREEDY)
    texts, reasons, usage = streamed(
        client.chat.completions.create(
            **GREEDY, stream=True, stream_options={"include_usage": True}
        )
    )
    assert texts == {0: whole.choices[0].message.content}
    assert reasons == {0: whole.choices[0].finish_reason}
    assert usage == whole.usage


def test_several_seeded_choices(client):
    rules = GREEDY | {"temperature": 1.0, "seed": 11, "n": 3, "top_p": 0.95}
    whole = client.chat.completions.create(**rules)
    texts = {choice.index: choice.message.content for choice in whole.choices}
    assert len(set(texts.values())) == 3
    again, reasons, _ = streamed(client.chat.completions.create(**rules, stream=True))
    assert again == texts
    assert set(reasons) == {0, 1, 2}
    other = client.chat.completions.create(**rules | {"seed": 12})
    assert [choice.message.content for choice in other.choices] != list(texts.values())


def test_stop_strings_end_an_answer_wherever_tokens_end(client):
    text = client.chat.completions.create(**GREEDY, **NEVER_ENDS).choices[0].message.content
    assert len(text) > 12
    for at in range(2, 10):
        stop = text[at : at + 3]
        rules = GREEDY | {"stop": ["never to be seen", stop]} | NEVER_ENDS
        answer = client.chat.completions.create(**rules)
        assert answer.choices[0].message.content == text[: text.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
        texts, _, _ = streamed(client.chat.completions.create(**rules, stream=True))
        assert texts == {0: text[: text.index(stop)]}


def test_logprobs(client):
    answer = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3, **NEVER_ENDS)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 30
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)
        assert bytes(token.bytes).decode(errors="replace") == token.token
    plain = client.completions.create(
        model="tiny", prompt="where is", max_tokens=5, temperature=0, logprobs=2
    )
    assert len(plain.choices[0].logprobs.token_logprobs) == 5
    assert all(len(each) == 2 for each in plain.choices[0].logprobs.top_logprobs)


def test_bias_and_penalties(client, tokenizer):
    [token] = tokenizer.encode("x")
    forced = client.chat.completions.create(**GREEDY, logit_bias={str(token): 100})
    assert forced.choices[0].message.content == "x" * 30
    varied = client.chat.completions.create(
        **GREEDY | {"max_tokens": 5}, logit_bias={str(token): 100}, frequency_penalty=2
    )
    assert varied.choices[0].message.content == "x" * 5  # 100 is more than five times 2
    calm = client.chat.completions.create(**GREEDY, presence_penalty=2, **NEVER_ENDS)
    plain = client.chat.completions.create(**GREEDY, **NEVER_ENDS)
    assert calm.choices[0].message.content != plain.choices[0].message.content


def test_prompts_as_token_ids(client, tokenizer):
    text = "where is my order"
    rules = {"model": "tiny", "temperature": 0, "max_tokens": 8}
    by_text = client.completions.create(prompt=[text, "hi"], **rules)
    by_ids = client.completions.create(
        prompt=[tokenizer.encode(text), tokenizer.encode("hi")], **rules
    )
    assert [c.text for c in by_text.choices] == [c.text for c in by_ids.choices]
    assert by_text.usage == by_ids.usage


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown": ({"something_new": 1}, 400, "something_new"),
    "model": ({"model": "other"}, 404, "model"),
    "messages missing": ({"messages": None}, 400, "messages"),
    "messages empty": ({"messages": []}, 400, "messages"),
    "role": ({"messages": [{"role": "x", "content": "a"}]}, 400, "messages[0].role"),
    "content": ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages[0].content[0].type",
    ),
    "tools": ({"tools": [{"type": "function"}]}, 400, "tools[0].function"),
    "schema": (
        {"response_format": {"type": "json_schema"}},
        400,
        "response_format.json_schema.schema",
    ),
    "temperature": ({"temperature": 3}, 400, "temperature"),
    "temperature type": ({"temperature": "hot"}, 400, "temperature"),
    "top_p": ({"top_p": 0}, 400, "top_p"),
    "n": ({"n": 0}, 400, "n"),
    "max_tokens": ({"max_tokens": -1}, 400, "max_tokens"),
    "max_completion_tokens": ({"max_completion_tokens": "x"}, 400, "max_completion_tokens"),
    "stop": ({"stop": ["a"] * 17}, 400, "stop"),
    "seed": ({"seed": 1.5}, 400, "seed"),
    "logit_bias": ({"logit_bias": {"a": 1}}, 400, "logit_bias"),
    "logit_bias range": ({"logit_bias": {"1": 1000}}, 400, "logit_bias"),
    "logit_bias token": ({"logit_bias": {"999999": 1}}, 400, "logit_bias"),
    "top_logprobs alone": ({"top_logprobs": 3}, 400, "top_logprobs"),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
    "stream": ({"stream": "yes"}, 400, "stream"),
    "stream_options": ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
    "template": (
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        400,
        "chat_template_kwargs.chat_template",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_field(engine, case):
    changes, status, param = REFUSED[case]
    answer = httpx.post(
        f"{engine.url}/v1/chat/completions", json=GREEDY | changes, headers=engine.headers
    )
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"]
    assert error["code"]


def test_harmless_fields_are_taken(client):
    answer = client.chat.completions.create(
        **GREEDY | {"max_tokens": None, "max_completion_tokens": 3},
        user="u",
        metadata={"a": "b"},
        store=False,
        response_format={"type": "text"},
        tool_choice="none",
        extra_body={"something_new": None, "use_beam_search": False, "ignore_eos": True},
    )
    assert answer.usage.completion_tokens == 3


def test_a_context_too_long_is_named(client):
    long = [{"role": "user", "content": "x y z " * 300}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**GREEDY | {"messages": long})
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**GREEDY | {"max_tokens": 400})
    assert caught.value.code == "context_length_exceeded"


def test_an_answer_may_fill_the_context(client):
    answer = client.chat.completions.create(**GREEDY | {"max_tokens": None}, **NEVER_ENDS)
    assert answer.usage.total_tokens == 400
    assert answer.choices[0].finish_reason == "length"


def test_who_hangs_up_frees_the_slot(engine, client):
    before = engine.metric("vllm:generation_tokens_total")
    rules = GREEDY | {"max_tokens": None, "n": 8} | NEVER_ENDS
    stream = client.chat.completions.create(**rules, stream=True)
    next(iter(stream))
    stream.close()
    engine.wait_metric("vllm:num_requests_running", 0, seconds=5)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).chat.completions.create(**rules)
    engine.wait_metric("vllm:num_requests_running", 0, seconds=5)
    assert engine.metric("vllm:generation_tokens_total") - before < 2 * 8 * 350


def test_a_crowd_is_served_as_if_alone(client):
    """Three times as many as there are slots, some of whom leave; the others notice nothing."""
    questions = [f"where is order {number}?" for number in range(24)]

    def ask(number, **more):
        messages = [{"role": "user", "content": questions[number]}]
        return client.chat.completions.create(**GREEDY | {"messages": messages} | more)

    alone = [ask(number).choices[0].message.content for number in range(24)]

    def ask_or_leave(number):
        if number % 4 == 1:
            stream = ask(number, stream=True, max_tokens=300)
            next(iter(stream))
            stream.close()
            return alone[number]
        if number % 4 == 2:
            ask(number, temperature=1.5, logprobs=True, frequency_penalty=1)
        return ask(number).choices[0].message.content

    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask_or_leave, range(24))) == alone


def test_metrics_count_what_clients_counted(engine, client):
    before = {
        name: engine.metric(f"vllm:{name}")
        for name in ("prompt_tokens_total", "generation_tokens_total")
    }
    usage = client.chat.completions.create(**GREEDY).usage
    after = {name: engine.metric(f"vllm:{name}") for name in before}
    assert after["prompt_tokens_total"] - before["prompt_tokens_total"] == usage.prompt_tokens
    assert (
        after["generation_tokens_total"] - before["generation_tokens_total"]
        == usage.completion_tokens
    )
    assert engine.metric("vllm:time_to_first_token_seconds_count") > 0
    assert engine.metric("vllm:kv_cache_usage_perc") == 0


def test_a_prompt_asked_again_is_known_and_counted(engine, client):
    """Of 70 tokens two blocks of 32 are full; choices of one request share what the first reads."""
    before = {
        name: engine.metric(f"vllm:prefix_cache_{name}_total") for name in ("queries", "hits")
    }
    prompt = list(range(100, 170))
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 4, "temperature": 0}
    first, again = (client.completions.create(**body, n=2) for _ in range(2))
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens == 64
    assert [each.text for each in first.choices] == [each.text for each in again.choices]
    *_, last = client.completions.create(
        **body, stream=True, stream_options={"include_usage": True}
    )
    assert last.usage.prompt_tokens_details.cached_tokens == 64
    assert engine.metric("vllm:prefix_cache_queries_total") == before["queries"] + 5 * 70
    assert engine.metric("vllm:prefix_cache_hits_total") == before["hits"] + 4 * 64
    assert engine.metric("vllm:num_preemptions_total") == 0
    engine.wait_metric("vllm:kv_cache_usage_perc", 0)


def test_sigterm_finishes_what_is_open(start):
    engine = start(engine="transformers", max_context_tokens=512).wait_ready()
    client = engine.client()
    stream = iter(
        client.chat.completions.create(**GREEDY | {"max_tokens": 450}, stream=True, **NEVER_ENDS)
    )
    next(stream)
    engine.terminate()
    _, reasons, _ = streamed(stream)
    assert reasons == {0: "length"}
    assert engine.process.wait(timeout=30) == 0


def test_a_model_that_runs_through_transformers_modules(start, tmp_path):
    folder = make_family(tmp_path / "model", "qwen3_5")  # a class with eyes, asked for text
    engine = start(engine="transformers", model_path=str(folder)).wait_ready()
    asked = GREEDY | {"max_tokens": 8} | NEVER_ENDS
    answer = engine.client().chat.completions.create(**asked)
    assert answer.usage.completion_tokens == 8
    assert "ModulesRunner" in engine.log


def test_what_cannot_be_served_ends_with_the_reason(start):
    engine = start(engine="transformers", memory_bytes=1_000_000)
    assert engine.process.wait(timeout=60) == 1
    assert "cannot serve (memory_short)" in engine.log
    assert "max_context_tokens" in engine.log  # the remedy
