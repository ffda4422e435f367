"""What operators see of requests, and what nobody may see in it."""

import asyncio
import io
import time

import httpx
import openai
import orjson
import pytest
from django.conf import settings
from prometheus_client.parser import text_string_to_metric_families

from gateway.measures import MOST_SERIES, Measures, render
from gateway.observing import Lines, Observer
from gateway.tests.make import make_replica, make_target

HELLO = [{"role": "user", "content": "hello pineapple there"}]


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels but the process."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "process"}
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    return found


def test_a_histogram_is_what_prometheus_reads():
    measures = Measures()
    for seconds in (0.01, 0.011, 3.0, 1000.0):
        measures.count(("retail", "tiny", "200"), request=seconds, queue=None)
    measures.count_tokens(("retail", "tiny", "output"), 12)
    found = samples(render({measures.process: measures.told()}).decode())
    labels = (("model", "tiny"), ("organization", "retail"), ("status", "200"))
    name = "ai_factory_gateway_request_seconds"
    by_bound = {
        dict(each)["le"]: value for (kind, each), value in found.items() if kind == f"{name}_bucket"
    }
    assert (by_bound["0.01"], by_bound["0.02"], by_bound["5.0"], by_bound["+Inf"]) == (1, 2, 3, 4)
    assert found[f"{name}_count", labels] == 4
    assert found[f"{name}_sum", labels] == pytest.approx(1003.021)
    assert not any(kind.startswith("ai_factory_gateway_queue") for kind, _ in found)
    tokens = (("direction", "output"), ("model", "tiny"), ("organization", "retail"))
    assert found["ai_factory_gateway_tokens_total", tokens] == 12


def test_series_are_bounded():
    measures = Measures()
    for number in range(MOST_SERIES + 50):
        measures.count(("retail", f"model-{number}", "200"), request=0.1)
    told = measures.told()["histograms"]["request"]
    assert len(told) == MOST_SERIES + 1
    assert next(each for each in told if each[0][1] == "other")[1][3] == 50


async def test_lines_that_cannot_be_written_are_counted_and_hold_nothing_up():
    target = io.BytesIO()
    lines = Lines(target)
    lines.add({"a": 1})
    lines.add({"a": 2})
    await lines.flush()
    assert target.getvalue() == b'{"a":1}\n{"a":2}\n'
    target.close()
    lines.add({"a": 3})
    await lines.flush()
    assert lines.lost == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.processes
def test_each_request_is_a_line_and_a_number_and_no_word_of_it_is_in_either(
    engine, start_gateway, secret
):
    target = io.BytesIO()
    observer = Observer(settings.REDIS_URL, lines=Lines(target), token="let-me-read")
    gateway = start_gateway(make_target(make_replica(engine)), observer=observer)
    client = gateway.client(secret)
    client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=3, extra_headers={"x-request-id": "mine-request-1"}
    )
    list(client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5, stream=True))
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="absent", messages=HELLO)
    with pytest.raises(openai.AuthenticationError):
        gateway.client("sk-af-none").models.list()
    client.models.list()
    deadline = time.monotonic() + 10
    while target.getvalue().count(b"\n") < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    lines = [orjson.loads(each) for each in target.getvalue().splitlines()]
    assert [each["status_code"] for each in lines] == [200, 200, 404, 401, 200]
    whole, stream, absent, unknown, listed = lines
    assert (whole["request_id"], whole["output_tokens"], whole["is_streamed"]) == (
        "mine-request-1",
        3,
        False,
    )
    assert (stream["model_name"], stream["output_tokens"]) == ("tiny", 5)
    assert stream["first_token_milliseconds"] <= stream["duration_milliseconds"]
    assert (absent["code"], absent["organization"]) == ("model_not_found", "retail")
    assert (unknown["code"], unknown["organization"]) == ("invalid_api_key", "")
    assert listed["endpoint"] == "GET /v1/models"
    text = _read(gateway, "Bearer let-me-read").text
    found = samples(text)
    labels = (("model", "tiny"), ("organization", "retail"), ("status", "200"))
    assert found["ai_factory_gateway_request_seconds_count", labels] == 2
    assert found["ai_factory_gateway_time_to_first_token_seconds_count", labels] == 1
    assert found["ai_factory_gateway_inter_token_seconds_count", labels] == 1
    for said in (text.encode(), target.getvalue()):
        assert b"pineapple" not in said
        assert secret.encode() not in said
    assert _read(gateway, "Bearer wrong").status_code == 401


def _read(gateway, authorization: str) -> httpx.Response:
    return httpx.get(f"{gateway.url}/metrics", headers={"Authorization": authorization})


async def test_any_process_tells_the_numbers_of_all_that_live(monkeypatch):
    one, other = Observer(settings.REDIS_URL), Observer(settings.REDIS_URL)
    other.measures.count(("bank", "tiny", "200"), request=0.1)
    await other._tell()
    text = (await one.render()).decode()
    assert f'process="{other.measures.process}"' in text
    monkeypatch.setattr("gateway.measures.STALE_SECONDS", -1.0)
    assert other.measures.process not in (await one.render()).decode()


def test_without_a_token_nobody_reads():
    observer = Observer()
    assert not observer.may_read(None)
    assert not observer.may_read(b"Bearer ")
    assert asyncio.run(observer.render()) is not None
