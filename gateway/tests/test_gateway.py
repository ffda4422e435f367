"""The gateway between the official client and real engine processes."""

import time
from datetime import timedelta

import httpx
import openai
import pytest
from django.utils import timezone

from accounts import services
from accounts.choices import Scope
from accounts.models import ApiKey
from accounts.tests.make import make_key, make_organization
from gateway.limits import LimitSettings
from gateway.tests.make import (
    make_replica,
    make_target,
    read_events,
    text_of,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]

HELLO = [{"role": "user", "content": "hello there"}]
SLOW = {"FAKE_TOKENS": "400", "FAKE_DELAY_SECONDS": "0.02"}


def test_an_answer_comes_through_whole_and_is_counted_once(engine, start_gateway, secret):
    target = make_target(make_replica(engine))
    client = start_gateway(target).client(secret)
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=7)
    direct = engine.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=7)
    assert answer.choices[0].message.content == direct.choices[0].message.content
    assert answer.usage == direct.usage
    (event,) = read_events(count=1)
    assert event["input_tokens"] == answer.usage.prompt_tokens
    assert event["output_tokens"] == answer.usage.completion_tokens == 7
    assert event["model_name"] == "tiny"
    assert str(event["deployment_id"]) == target.deployment_id
    assert str(event["replica_id"]) == target.replicas[0].id
    assert not event["is_interrupted"]
    assert event["key_id"] == ApiKey.objects.get().pk


def test_completions_and_several_choices(engine, start_gateway, secret):
    client = start_gateway(make_target(make_replica(engine))).client(secret)
    answer = client.completions.create(model="tiny", prompt="one two three", n=2, max_tokens=3)
    assert len(answer.choices) == 2
    (event,) = read_events(count=1)
    assert (event["endpoint"], event["output_tokens"]) == ("completions", 6)


def test_embeddings_are_passed_through_and_counted(engine, start_gateway, secret):
    client = start_gateway(make_target(make_replica(engine))).client(secret)
    answer = client.embeddings.create(model="tiny", input=["one two", "three"])
    assert [len(each.embedding) for each in answer.data] == [32, 32]
    assert answer.usage.prompt_tokens == 3
    (event,) = read_events(count=1)
    assert event["endpoint"] == "embeddings"
    assert (event["input_tokens"], event["output_tokens"]) == (3, 0)


@pytest.mark.parametrize("asked", [None, {"include_usage": True}, {"include_usage": False}])
def test_a_stream_has_the_usage_chunk_only_if_asked(engine, start_gateway, secret, asked):
    client = start_gateway(make_target(make_replica(engine))).client(secret)
    extra = {} if asked is None else {"stream_options": asked}
    chunks = list(
        client.chat.completions.create(model="tiny", messages=HELLO, stream=True, **extra)
    )
    whole = client.chat.completions.create(model="tiny", messages=HELLO)
    assert text_of(chunks) == whole.choices[0].message.content
    wanted = bool(asked and asked["include_usage"])
    assert (chunks[-1].usage is not None) == wanted
    assert bool(chunks[-1].choices) != wanted
    events = read_events(count=2)
    assert events[0]["is_streamed"]
    assert not events[0]["is_interrupted"]
    assert events[0]["output_tokens"] == events[1]["output_tokens"] == 16
    assert events[0]["input_tokens"] == whole.usage.prompt_tokens


def test_a_stream_asked_for_with_usage_is_passed_byte_for_byte(engine, start_gateway, secret):
    target = make_target(make_replica(engine))
    gateway = start_gateway(target)
    body = {
        "model": "tiny",
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {secret}", "X-Request-Id": "my-own-id-1"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
    direct = httpx.post(f"{engine.url}/v1/chat/completions", json=body, headers=engine.headers)
    assert answer.headers["x-request-id"] == "my-own-id-1"
    assert answer.headers["x-revision-id"] == str(target.revision_id)
    assert answer.headers["content-type"] == direct.headers["content-type"]
    shape = [sorted(line[:12] for line in each.text.split("\n")) for each in (answer, direct)]
    assert shape[0] == shape[1]
    assert answer.text.endswith("data: [DONE]\n\n")
    # the same id again is another request and counts again
    httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
    assert len({event["request_id"] for event in read_events(count=2)}) == 2


def test_models_are_the_organizations_own(engine, start_gateway, secret):
    target = make_target(make_replica(engine))
    gateway = start_gateway(target)
    bank = make_organization("bank")
    gateway.route(bank, make_target(make_replica(engine)), name="secret-model")
    gateway.route(make_organization(), make_target(make_replica(engine)), name="other/name")
    client = gateway.client(secret)
    time.sleep(1.2)
    assert [model.id for model in client.models.list()] == ["other/name", "tiny"]
    assert client.models.retrieve("tiny").owned_by == "retail"
    assert client.models.retrieve("other/name").id == "other/name"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("secret-model")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="secret-model", messages=HELLO)
    assert caught.value.param == "model"
    # known to its engine under another name
    answer = client.chat.completions.create(model="other/name", messages=HELLO)
    assert answer.usage.completion_tokens == 16
    limited = gateway.client(make_key(make_organization(), allowed_models=["tiny"]))
    assert [model.id for model in limited.models.list()] == ["tiny"]
    with pytest.raises(openai.PermissionDeniedError):
        limited.chat.completions.create(model="other/name", messages=HELLO)


def test_who_may_not(engine, start_gateway):
    gateway = start_gateway(make_target(make_replica(engine)))
    retail = make_organization()
    for wrong in ("sk-af-0000000000-nothing", "sk-proj-abc", make_key(retail) + "x"):
        with pytest.raises(openai.AuthenticationError) as caught:
            gateway.client(wrong).models.list()
        assert caught.value.code == "invalid_api_key"
    soon = timezone.now() + timedelta(seconds=0.7)
    expiring = gateway.client(make_key(retail, expires_at=soon))
    expiring.models.list()
    time.sleep(0.8)
    with pytest.raises(openai.AuthenticationError):
        expiring.models.list()
    with pytest.raises(openai.PermissionDeniedError) as refused:
        gateway.client(make_key(retail, scopes=(Scope.READ,))).models.list()
    assert refused.value.code == "missing_scope"
    assert httpx.get(f"{gateway.url}/v1/models").status_code == 401


def test_a_revoked_key_stops_within_two_seconds(engine, start_gateway, secret):
    gateway = start_gateway(make_target(make_replica(engine)))
    client = gateway.client(secret)
    client.models.list()
    services.revoke_api_key(
        organization=make_organization(), key_id=ApiKey.objects.get().pk, now=timezone.now()
    )
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        try:
            client.models.list()
        except openai.AuthenticationError:
            return
        time.sleep(0.05)
    pytest.fail("the key still opens")


def test_inference_goes_on_while_the_database_is_away(engine, start_gateway, secret):
    gateway = start_gateway(make_target(make_replica(engine)))
    client = gateway.client(secret)
    client.models.list()
    unseen = make_key(make_organization())
    gateway.source.is_away = True
    time.sleep(1.2)
    assert client.chat.completions.create(model="tiny", messages=HELLO).choices
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client(unseen).models.list()
    assert caught.value.status_code == 503
    gateway.source.is_away = False
    gateway.client(unseen).models.list()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": HELLO}, "model"),
        ({"model": 7, "messages": HELLO}, "model"),
        ({"model": "tiny"}, "messages"),
        ({"model": "tiny", "messages": "hello"}, "messages"),
        ({"model": "tiny", "messages": []}, "messages"),
        ({"model": "tiny", "messages": HELLO, "stream": "yes"}, "stream"),
        ({"model": "tiny", "messages": HELLO, "temperature": 9}, "temperature"),
    ],
)
def test_a_bad_request_names_its_field(engine, start_gateway, secret, body, param):
    client = start_gateway(make_target(make_replica(engine))).client(secret)
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_what_is_not_here(engine, start_gateway, secret):
    gateway = start_gateway(make_target(make_replica(engine)))
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=gateway.url, headers=headers) as client:
        assert client.get("/v1/nowhere").json()["error"]["code"] == "unknown_url"
        assert client.get("/v1/chat/completions").status_code == 405
        assert client.post("/v1/models").status_code == 405
        broken = client.post("/v1/chat/completions", content=b"{")
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")
        huge = client.post("/v1/chat/completions", content=b"x" * (33 << 20))
        assert huge.status_code == 413


def test_too_many_requests(engine, start_gateway, secret):
    gateway = start_gateway(
        make_target(make_replica(engine)), limits=LimitSettings(requests_per_minute=2)
    )
    client = gateway.client(secret)
    for _ in range(2):
        client.chat.completions.create(model="tiny", messages=HELLO)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO)
    assert 25 <= int(caught.value.response.headers["retry-after"]) <= 30
    read_events(count=2)


def test_nothing_ready_is_503_and_the_client_comes_back(engine, start_gateway, secret):
    gateway = start_gateway(make_target(message="Loading weights."))
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client(secret).chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "2"
    assert "Loading weights." in str(caught.value)
    gateway.source.routes.clear()
    gateway.route(make_organization(), make_target(make_replica(engine)))
    patient = gateway.client(secret, max_retries=3)
    assert patient.chat.completions.create(model="tiny", messages=HELLO).choices
    read_events(count=1)


def test_a_dead_replica_is_passed_over(engine, start_gateway, secret):
    gateway = start_gateway(make_target(make_replica(), make_replica(engine)))
    client = gateway.client(secret)
    for _ in range(8):
        assert client.chat.completions.create(model="tiny", messages=HELLO).choices
    read_events(count=8)


def test_only_dead_replicas_are_503(start_gateway, secret):
    client = start_gateway(make_target(make_replica())).client(secret)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "2"
    read_events(count=0)


def test_a_draining_replica_hands_over(engine, start_engine, start_gateway, secret):
    draining = start_engine(environment=SLOW)
    gateway = start_gateway(make_target(make_replica(draining), make_replica(engine)))
    held = draining.client().chat.completions.create(model="tiny", messages=HELLO, stream=True)
    next(iter(held))
    draining.terminate()
    while draining.health()[0] == 200:
        time.sleep(0.01)
    client = gateway.client(secret)
    for _ in range(6):
        assert client.chat.completions.create(model="tiny", messages=HELLO).choices
    held.close()


def test_an_engine_restarted_behind_a_pooled_connection(start_engine, start_gateway, secret):
    first = start_engine()
    gateway = start_gateway(make_target(make_replica(first)))
    client = gateway.client(secret)
    client.chat.completions.create(model="tiny", messages=HELLO)
    first.stop()
    start_engine(port=first.spec.port)
    assert client.chat.completions.create(model="tiny", messages=HELLO).choices


def test_a_hang_up_frees_the_engine_and_is_counted(start_engine, start_gateway, secret):
    engine = start_engine(environment=SLOW)
    client = start_gateway(make_target(make_replica(engine))).client(secret)
    # the gateway learns what a byte of this model's requests is worth
    whole = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1, stream=True)
    list(whole)
    chunks = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    seen = 0
    for chunk in chunks:
        seen += bool(chunk.choices[0].delta.content)
        if seen == 5:
            break
    engine.wait_metric("vllm:num_requests_running", 1)
    chunks.close()
    engine.wait_metric("vllm:num_requests_running", 0, seconds=1)
    event = read_events(count=2)[1]
    assert event["is_interrupted"]
    assert 5 <= event["output_tokens"] <= 10
    assert 2 <= event["input_tokens"] <= 4


def test_a_hang_up_before_the_first_byte_frees_the_engine(start_engine, start_gateway, secret):
    engine = start_engine(environment=SLOW)
    client = start_gateway(make_target(make_replica(engine))).client(secret, timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="tiny", messages=HELLO)
    engine.wait_metric("vllm:num_requests_running", 0, seconds=1)
    (event,) = read_events(count=1)
    assert (event["status_code"], event["is_interrupted"]) == (499, True)
    assert event["output_tokens"] == 0


def test_an_engine_killed_in_the_middle_is_said_and_counted(start_engine, start_gateway, secret):
    engine = start_engine(environment=SLOW)
    client = start_gateway(make_target(make_replica(engine))).client(secret)
    chunks = iter(client.chat.completions.create(model="tiny", messages=HELLO, stream=True))
    next(chunks)
    received = [next(chunks).choices[0].delta.content for _ in range(5)]
    engine.process.kill()
    with pytest.raises(openai.APIError, match="broke off"):
        received += [chunk.choices[0].delta.content for chunk in chunks]
    (event,) = read_events(count=1)
    assert event["is_interrupted"]
    assert event["output_tokens"] >= 5
