"""The responses API through the official client, against a real engine process."""

import httpx
import openai
import pytest

from accounts.tests.make import make_key, make_organization
from gateway.tests.make import make_replica, make_target, read_events

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def test_a_response_is_answered_counted_and_kept(engine, start_gateway, secret):
    gateway = start_gateway(make_target(make_replica(engine)))
    client = gateway.client(secret)
    first = client.responses.create(
        model="tiny", input="hello there", instructions="be brief", metadata={"case": "7"}
    )
    assert first.status == "completed"
    assert len(first.output_text.split()) == 16
    (event,) = read_events(count=1)
    assert (event["input_tokens"], event["output_tokens"]) == (
        first.usage.input_tokens,
        first.usage.output_tokens,
    )
    again = client.responses.retrieve(first.id)
    assert (again.output_text, again.metadata) == (first.output_text, {"case": "7"})
    second = client.responses.create(model="tiny", input="more", previous_response_id=first.id)
    assert second.usage.input_tokens > first.usage.output_tokens
    items = client.responses.input_items.list(second.id, order="asc", limit=2)
    assert [each.role for each in items] == ["user", "assistant", "user"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve(first.id)
    assert caught.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="tiny", input="x", previous_response_id=first.id)
    assert refused.value.param == "previous_response_id"


def test_another_organization_finds_none_of_it(engine, start_gateway, secret):
    gateway = start_gateway(make_target(make_replica(engine)))
    gateway.route(make_organization("bank"), make_target(make_replica(engine)), name="other")
    kept = gateway.client(secret).responses.create(model="tiny", input="hello")
    stranger = gateway.client(make_key(make_organization("bank")))
    for ask in (stranger.responses.retrieve, stranger.responses.delete):
        with pytest.raises(openai.NotFoundError):
            ask(kept.id)
    unkept = gateway.client(secret).responses.create(model="tiny", input="hello", store=False)
    with pytest.raises(openai.NotFoundError):
        gateway.client(secret).responses.retrieve(unkept.id)
    assert gateway.client(secret).responses.retrieve(kept.id).id == kept.id


def test_a_stream_ends_as_the_whole_answer(engine, start_gateway, secret):
    client = start_gateway(make_target(make_replica(engine))).client(secret)
    whole = client.responses.create(model="tiny", input="hello there", max_output_tokens=5)
    assert whole.incomplete_details.reason == "max_output_tokens"
    asked = {"model": "tiny", "input": "hello there", "max_output_tokens": 5}
    events = list(client.responses.create(**asked, stream=True))
    assert [each.sequence_number for each in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(each.type for each in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    said = "".join(each.delta for each in events if each.type == "response.output_text.delta")
    last = events[-1].response
    assert said == last.output_text == whole.output_text
    assert last.usage == whole.usage
    assert client.responses.retrieve(last.id).output_text == said
    with client.responses.stream(model="tiny", input="hello there") as stream:
        assert stream.get_final_response().status == "completed"


def test_functions_are_called_whole_and_streamed(start_engine, start_gateway, secret):
    engine = start_engine(environment={"FAKE_TEXT": CALL}, tool_parser="hermes")
    client = start_gateway(make_target(make_replica(engine))).client(secret)
    whole = client.responses.create(model="tiny", input="weather in Oslo?", tools=[WEATHER])
    stream = client.responses.create(
        model="tiny", input="weather in Oslo?", tools=[WEATHER], stream=True
    )
    for answer in (whole, list(stream)[-1].response):
        call = answer.output[-1]
        assert (call.type, call.name, call.arguments) == (
            "function_call",
            "weather",
            '{"city": "Oslo"}',
        )
        told = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        after = client.responses.create(
            model="tiny", input=[told], previous_response_id=answer.id, tools=[WEATHER]
        )
        assert after.usage.input_tokens > answer.usage.input_tokens


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"background": True}, "background"),
        ({"no_such_thing": 1}, "no_such_thing"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"reasoning": {"effort": "odd"}}, "reasoning.effort"),
        ({"metadata": {"a": 1}}, "metadata"),
    ],
)
def test_what_is_not_served_is_refused_by_name(engine, start_gateway, secret, asked, param):
    gateway = start_gateway(make_target(make_replica(engine)))
    answer = httpx.post(
        f"{gateway.url}/v1/responses",
        json={"model": "tiny", "input": "hello"} | asked,
        headers={"Authorization": f"Bearer {secret}", "X-Request-Id": "mine-request-1"},
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert answer.headers["x-request-id"] == "mine-request-1"


def test_unknown_models_and_those_without_a_replica(start_gateway, secret):
    client = start_gateway(make_target()).client(secret)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="none", input="hello")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.InternalServerError) as away:
        client.responses.create(model="tiny", input="hello")
    assert away.value.status_code == 503
    assert int(away.value.response.headers["retry-after"]) >= 1
