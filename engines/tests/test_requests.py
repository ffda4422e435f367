"""What bodies are read into, and which are refused, without a process."""

import pytest

from engines.protocol.errors import ApiError
from engines.protocol.requests import Sampling, read_chat, read_completion

MODELS = ("tiny", "tiny-tuned")
HELLO = [{"role": "user", "content": "hello"}]


def chat(**body):
    body = {"model": "tiny", "messages": HELLO} | body
    return read_chat(body, models=MODELS, defaults=Sampling())


def completion(**body):
    body = {"model": "tiny", "prompt": "hello"} | body
    return read_completion(body, models=MODELS, defaults=Sampling())


def nested_tool(depth):
    schema: dict[str, object] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


@pytest.mark.parametrize("read", [chat, completion])
def test_the_model_asked_for_and_its_priority(read):
    request = read(model="tiny-tuned", priority=-3)
    assert (request.model, request.priority) == ("tiny-tuned", -3)
    assert read().priority == 0
    for body, status, param in (
        ({"model": "other"}, 404, "model"),
        ({"model": None}, 400, "model"),
        ({"priority": "high"}, 400, "priority"),
    ):
        with pytest.raises(ApiError) as caught:
            read(**body)
        assert (caught.value.status, caught.value.param) == (status, param)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"stop": ["x" * 513]}, "stop"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"tools": [nested_tool(400)]}, "tools[0]"),
    ],
)
def test_what_would_take_too_much_work_is_refused_by_name(changes, param):
    with pytest.raises(ApiError) as caught:
        chat(**changes)
    assert (caught.value.status, caught.value.param) == (400, param)
