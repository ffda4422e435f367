"""Formats, tool calls, thoughts and vLLM's parameters, against real engine processes.

A random model writes nonsense; what its answers must look like, they look like all the same.
"""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from engines.tests.make import (
    CODER_TEMPLATE,
    QWEN3_TEMPLATE,
    THINKING_TEMPLATE,
    RunningEngine,
    make_spec,
    make_tokenizer,
)

ASKED: Any = [{"role": "user", "content": "where is 12?"}]
PLAIN: dict[str, Any] = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "units": {"enum": ["C", "F"]},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
NOW: Any = {"type": "function", "function": {"name": "now"}}
PARCEL = {
    "type": "object",
    "properties": {
        "state": {"enum": ["late", "lost", "here"]},
        "weight": {"type": "integer", "minimum": 0, "maximum": 999},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3},
        "note": {"type": ["string", "null"], "maxLength": 10},
    },
    "required": ["state", "weight", "tags", "note"],
    "additionalProperties": False,
}

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def make_engine(tiny_model, tmp_path_factory):
    """Starts the tiny model with another chat template."""
    started: list[RunningEngine] = []

    def start(template) -> RunningEngine:
        folder = tmp_path_factory.mktemp("model")
        shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
        make_tokenizer(folder, template=template)
        config = json.loads((folder / "config.json").read_text())
        config["max_position_embeddings"] = 2048  # nonsense in a format can become long
        (folder / "config.json").write_text(json.dumps(config))
        spec = make_spec(
            engine="transformers",
            model_path=str(folder),
            max_context_tokens=2048,
            max_concurrency=8,
        )
        started.append(RunningEngine(spec, tmp_path_factory.mktemp("engine")))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture(scope="module")
def engine(make_engine):
    """It may think and calls as Qwen3 does."""
    return make_engine(QWEN3_TEMPLATE).wait_ready()


@pytest.fixture(scope="module")
def client(engine):
    return engine.client()


def ask(client, **rules):
    rules = {"model": "tiny", "messages": ASKED, "max_tokens": 1000} | rules
    return client.chat.completions.create(**rules)


def schema(value, *, strict=True):
    form = {"name": "parcel", "strict": strict, "schema": value}
    return {"type": "json_schema", "json_schema": form}


def check_parcel(text):
    parcel = json.loads(text)
    assert list(parcel) == ["state", "weight", "tags", "note"]
    assert parcel["state"] in ("late", "lost", "here")
    assert 0 <= parcel["weight"] <= 999
    assert len(parcel["tags"]) <= 3
    assert all(len(tag) <= 6 for tag in parcel["tags"])
    return parcel


def streamed(chunks):
    """Content, reasoning, calls (id, name, arguments) and the reason, of one choice."""
    content, reasoning, reason = "", "", None
    calls: list[list[str]] = []
    for chunk in chunks:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                if call.id:
                    assert call.index == len(calls)
                    calls.append([call.id, call.function.name, ""])
                calls[call.index][2] += call.function.arguments or ""
            reason = choice.finish_reason or reason
    return content, reasoning, calls, reason


@pytest.mark.parametrize("seed", range(5))
def test_a_schema_is_kept_to_by_a_random_model(client, seed):
    answer = ask(client, response_format=schema(PARCEL), seed=seed, n=2, **PLAIN)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        check_parcel(choice.message.content)


def test_a_schema_in_a_stream_with_logprobs_beside_others(client):
    plain = ask(client, temperature=0, max_tokens=40)

    def constrained(seed):
        stream = ask(
            client, response_format=schema(PARCEL), seed=seed, logprobs=True, stream=True, **PLAIN
        )
        content, _, _, reason = streamed(stream)
        assert reason == "stop"
        return check_parcel(content)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(constrained, seed) for seed in range(12)]
        others = [pool.submit(ask, client, temperature=0, max_tokens=40) for _ in range(12)]
        crowded = [each.result() for each in asked]
        for each in others:  # who asks for nothing gets what it got alone
            assert each.result().choices[0].message.content == plain.choices[0].message.content
    assert crowded == [constrained(seed) for seed in range(12)]


def test_the_clients_own_models_are_filled(client):
    class Parcel(BaseModel):
        lost: bool
        weight: int

    answer = client.chat.completions.parse(
        model="tiny",
        messages=ASKED,
        response_format=Parcel,
        max_tokens=1000,
        temperature=0,
        **PLAIN,
    )
    assert isinstance(answer.choices[0].message.parsed, Parcel)


def test_json_objects_choices_and_expressions(client):
    def ask_for(**body):
        body |= PLAIN["extra_body"]
        return ask(client, extra_body=body, temperature=0.5, seed=3).choices[0]

    for constraint, allowed in (
        ({"guided_choice": ["yes", "no"]}, {"yes", "no"}),
        ({"structured_outputs": {"choice": ["a\nb", '"']}}, {"a\nb", '"'}),
    ):
        choice = ask_for(**constraint)
        assert choice.message.content in allowed
        assert choice.finish_reason == "stop"
    number = ask_for(structured_outputs={"regex": r"\d{3}/[a-z]{2}"}).message.content
    assert len(number) == 6
    assert number[3] == "/"
    whole = ask(client, response_format={"type": "json_object"}, seed=1, **PLAIN)
    assert whole.choices[0].message.content.startswith("{")
    if whole.choices[0].finish_reason == "stop":
        json.loads(whole.choices[0].message.content)


def test_a_limit_leaves_the_json_unfinished(client):
    answer = ask(client, response_format=schema(PARCEL), max_tokens=4, **PLAIN)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 4
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.choices[0].message.content)


def test_completions_keep_to_a_schema_too(client):
    answer = client.completions.create(
        model="tiny",
        prompt="a parcel: ",
        max_tokens=1000,
        echo=True,
        extra_body={"response_format": schema(PARCEL), "ignore_eos": True},
    )
    assert answer.choices[0].text.startswith("a parcel: {")
    check_parcel(answer.choices[0].text.removeprefix("a parcel: "))
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("value", "strict"),
    [
        ({"type": "strin"}, True),
        ({"type": "array", "uniqueItems": True}, True),
        ({"$ref": "http://example.org/schema"}, False),
        ({"$ref": "#/nowhere"}, True),
        ({"type": "string", "pattern": "("}, True),
    ],
)
def test_schemas_that_cannot_be_kept_are_refused(client, value, strict):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, response_format=schema(value, strict=strict))
    assert caught.value.param == "response_format.json_schema.schema"


def test_a_schema_made_to_take_long_takes_little(client):
    began_at = time.monotonic()
    evil = {"type": "string", "pattern": "(a|aa|aaa){1,5000}(b{1,5000}c?){1,5000}"}
    try:
        ask(client, response_format=schema(evil), max_tokens=20, **PLAIN)
    except openai.APIStatusError as error:
        assert error.status_code in (400, 500)  # noqa: PT017 (either end will do)
    assert ask(client, max_tokens=5).usage.completion_tokens > 0
    assert time.monotonic() - began_at < 20


@pytest.mark.parametrize("template", [QWEN3_TEMPLATE, CODER_TEMPLATE])
def test_forced_calls_are_valid_calls(make_engine, engine, template):
    running = engine if template == QWEN3_TEMPLATE else make_engine(template).wait_ready()
    client = running.client()
    tools = [WEATHER, NOW]
    named = {"type": "function", "function": {"name": "weather"}}
    for seed in range(4):
        rules = {"tools": tools, "tool_choice": named, "parallel_tool_calls": False, "seed": seed}
        choice = ask(client, **rules, **PLAIN).choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        [call] = choice.message.tool_calls
        assert call.function.name == "weather"
        assert call.id.startswith("call_")
        arguments = json.loads(call.function.arguments)
        assert set(arguments) >= {"city", "days"}
        assert 1 <= arguments["days"] <= 14
        assert len(arguments["city"]) <= 12
        content, _, calls, reason = streamed(ask(client, **rules, stream=True, **PLAIN))
        assert (content, reason) == ("", "tool_calls")
        assert [each[1:] for each in calls] == [["weather", call.function.arguments]]
    choice = ask(
        client, tools=tools, tool_choice="required", seed=5, temperature=0.2, **PLAIN
    ).choices[0]
    assert choice.message.tool_calls
    assert {call.function.name for call in choice.message.tool_calls} <= {"weather", "now"}


def test_a_conversation_with_calls_is_taken(client):
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    answer = ask(client, messages=messages, tools=[NOW], max_tokens=5)
    bare = ask(client, messages=messages[::2], tools=[NOW], max_tokens=5)
    assert answer.usage.prompt_tokens > bare.usage.prompt_tokens + 5  # the call was rendered
    without = ask(client, messages=messages, tools=[NOW], tool_choice="none", max_tokens=5)
    assert without.usage.prompt_tokens < answer.usage.prompt_tokens
    call["function"]["arguments"] = "{oh"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=messages)
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_a_model_without_calls_refuses_tools(make_engine):
    client = make_engine(THINKING_TEMPLATE).wait_ready().client()
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, tools=[NOW])
    assert caught.value.param == "tools"
    # Its template opens a thought, which a random model never closes.
    answer = ask(client, max_tokens=12, extra_body={"ignore_eos": True}, temperature=0)
    message = answer.choices[0].message
    assert message.content is None
    assert message.reasoning_content
    assert message.reasoning == message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens == 12
    stream = ask(client, max_tokens=12, extra_body={"ignore_eos": True}, temperature=0, stream=True)
    content, reasoning, _, reason = streamed(stream)
    assert (content, reasoning, reason) == ("", message.reasoning_content, "length")
    # A format is for what is said after it, so the thought must end where the format begins.
    closing = ask(client, messages=ASKED, response_format=schema({"enum": [1]}), max_tokens=6)
    assert closing.choices[0].message.content is None
    hidden = ask(client, max_tokens=12, extra_body={"include_reasoning": False})
    assert not hasattr(hidden.choices[0].message, "reasoning_content")


def test_stops_and_lengths_in_vllms_words(client):
    def text(**body):
        answer = ask(client, temperature=0, max_tokens=30, extra_body=PLAIN["extra_body"] | body)
        return answer.choices[0], answer.usage.completion_tokens

    whole, _ = text(ignore_eos=True)
    stop = whole.message.content[5:8]
    upto = whole.message.content.index(stop)
    for keeps in (False, True):
        cut, _ = text(ignore_eos=True, stop=stop, include_stop_str_in_output=keeps)
        assert cut.message.content == whole.message.content[: upto + (len(stop) if keeps else 0)]
    every = list(range(416))
    ended, tokens = text(stop_token_ids=every[:64], min_tokens=0)
    assert (ended.finish_reason, tokens) == ("stop", 1) or tokens > 1
    assert text(logit_bias={"2": 100})[1] == 1  # the end, at once
    _, tokens = text(logit_bias={"2": 100}, min_tokens=7)
    assert tokens == 8


def test_usage_with_every_chunk(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(ask(client, max_tokens=5, stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] >= counts[0] >= 1


def test_times_of_the_queue_and_the_answer_are_told(engine, client):
    ask(client, max_tokens=5)
    for name in (
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_inference_time_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
        "request_params_n",
        "request_params_max_tokens",
    ):
        assert engine.metric(f"vllm:{name}_count") > 0, name
