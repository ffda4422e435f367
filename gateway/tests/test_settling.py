"""What limits are told of each request, whatever becomes of it."""

import asyncio
import time

import openai
import pytest

from gateway.limits import Ticket, Wish
from gateway.tests.make import make_replica, make_target

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]

HELLO = [{"role": "user", "content": "hello there"}]
SLOW = {"FAKE_TOKENS": "400", "FAKE_DELAY_SECONDS": "0.02"}


class Noting:
    """A limiter that lets everybody in and remembers with what they left."""

    def __init__(self) -> None:
        self.entered: list[Wish] = []
        self.left: list[tuple[int, int]] = []
        self.counted: list[bool] = []

    async def enter(self, key, wish):
        self.entered.append(wish)
        return Ticket(key, [(b"x-ratelimit-remaining-requests", b"7")])

    def leave(self, ticket, *, is_counted, input_tokens, cached_input_tokens, output_tokens):
        self.counted.append(is_counted)
        self.left.append((input_tokens, output_tokens))

    async def run(self):
        await asyncio.sleep(0)

    def wait_left(self, count: int) -> list[tuple[int, int]]:
        """A client has its answer a moment before its request is over."""
        deadline = time.monotonic() + 10
        while len(self.left) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.left


def test_whoever_enters_leaves_once_however_it_ends(start_engine, start_gateway, secret):
    engine = start_engine(environment=SLOW)
    limiter = Noting()
    gateway = start_gateway(make_target(make_replica(engine)), limiter=limiter)
    client = gateway.client(secret)
    ask = client.chat.completions.with_raw_response.create
    answer = ask(model="tiny", messages=HELLO, max_tokens=3, n=2)
    assert answer.headers["x-ratelimit-remaining-requests"] == "7"
    wish = limiter.entered[0]
    assert (wish.model_name, wish.max_output_tokens, wish.answers) == ("tiny", 6, 2)
    assert 0 < wish.input_tokens < wish.body_bytes
    usage = answer.parse().usage
    assert limiter.wait_left(1) == [(usage.prompt_tokens, usage.completion_tokens)]
    with pytest.raises(openai.BadRequestError):  # by the engine
        ask(model="tiny", messages=HELLO, temperature=9)
    assert limiter.wait_left(2)[1:] == [(0, 0)]
    with pytest.raises(openai.NotFoundError):  # before it entered
        ask(model="no-such", messages=HELLO)
    leaving = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    next(iter(leaving))
    leaving.close()
    engine.wait_metric("vllm:num_requests_running", 0)
    dying = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    next(iter(dying))
    engine.process.kill()
    with pytest.raises(openai.APIError):
        list(dying)
    with pytest.raises(openai.InternalServerError):
        ask(model="tiny", messages=HELLO)
    assert len(limiter.wait_left(5)) == len(limiter.entered) == 5
    assert limiter.left[4] == (0, 0)
    assert limiter.counted == [True, True, True, True, False]
