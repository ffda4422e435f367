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
