"""Batches with the official client: real engine, real gateway, and workers that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai
import pytest
from django.conf import settings as django_settings
from django.db import connection

from accounts.batch_tokens import BatchTicket, read, sign
from accounts.choices import Scope
from accounts.models import ApiKey, Organization
from accounts.tests.make import make_key, make_organization
from chips.choices import PriceItem
from chips.services.prices import set_price
from deployments import planning, signals
from deployments.choices import ReplicaStatus
from deployments.models import Replica
from deployments.tests.make import make_deployment, make_replica
from engines.tests.make import RunningEngine, make_spec
from gateway.source import DatabaseSource
from gateway.tests.make import RunningGateway, read_events
from openai_api.batching import room, step_batch
from openai_api.models import Batch, BatchLine
from usage import statements

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]
CHAT = "/v1/chat/completions"


def lines(count: int, **changes: Any) -> bytes:
    rows = [
        {
            "custom_id": f"n-{n}",
            "method": "POST",
            "url": CHAT,
            "body": {
                "model": "support",
                "messages": [{"role": "user", "content": f"number {n}"}],
                "max_tokens": 4,
            },
        }
        | changes
        for n in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture(autouse=True)
def _storage(tmp_path: Path, settings) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")


@pytest.fixture
def secret() -> str:
    return make_key(make_organization(), scopes=(Scope.FINE_TUNING, Scope.INFERENCE))


@pytest.fixture
def client(live_server, secret: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live_server.url}/v1", api_key=secret, max_retries=0)


@pytest.fixture
def serve(tmp_path: Path, settings, secret: str):
    """A deployment `support` of one ready replica behind a gateway, as rows and processes."""
    started: list[Any] = []

    def begin(**environment: str) -> RunningGateway:
        deployment = make_deployment(tmp_path / "models", Organization.objects.get())
        replica = make_replica(deployment, status=ReplicaStatus.READY)
        spec = make_spec(
            served_model_name="support",
            token=planning.replica_token(replica.pk),
            environment=environment,
        )
        started.append(RunningEngine(spec, tmp_path).wait_ready())
        Replica.objects.filter(pk=replica.pk).update(address="127.0.0.1", port=spec.port)
        gateway = RunningGateway()
        gateway.source.routes = DatabaseSource().load_routes()
        started.append(gateway.start())
        settings.FACTORY_GATEWAY_URL = gateway.url
        time.sleep(1.1)  # gateways tell every second what they have open
        return gateway

    yield begin
    for each in reversed(started):
        each.stop()


def create(client: openai.OpenAI, content: bytes, **fields: Any) -> Any:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    wanted: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h"} | fields
    return client.batches.create(input_file_id=file.id, **wanted)


def run(batch_id: str, *, now: datetime | None = None, seconds: float = 60) -> None:
    """Step as workers do, until it is over."""
    pk = Batch.objects.get(pk=batch_id.removeprefix("batch_")).pk
    deadline = time.monotonic() + seconds
    while Batch.objects.get(pk=pk).ended_at is None:
        assert time.monotonic() < deadline, Batch.objects.values().get(pk=pk)
        step_batch(pk, now=now or datetime.now(UTC))


def read_file(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    text = client.files.content(file_id).text
    return {row["custom_id"]: row for row in map(json.loads, text.splitlines())}


def test_lines_are_answered_at_the_price_of_batches_and_billed_to_the_key_once(
    client: openai.OpenAI, serve
) -> None:
    serve()
    organization = Organization.objects.get()
    for item, price in ((PriceItem.OUTPUT_TOKENS, 8), (PriceItem.BATCH_OUTPUT_TOKENS, 4)):
        set_price(
            item=item,
            unit_price=Decimal(price),
            valid_from=datetime(2026, 1, 1, tzinfo=UTC),
            now=datetime.now(UTC),
        )
    bad = json.loads(lines(1))
    bad |= {"custom_id": "bad", "body": bad["body"] | {"max_tokens": -1}}
    batch = create(client, lines(20) + json.dumps(bad).encode(), metadata={"for": "test"})
    assert (batch.status, batch.completion_window, batch.metadata) == (
        "validating",
        "24h",
        {"for": "test"},
    )
    run(batch.id)
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 21, "completed": 20, "failed": 1}
    assert batch.usage.output_tokens == 80
    answers = read_file(client, batch.output_file_id)
    assert list(answers) == [f"n-{n}" for n in range(20)]
    first = answers["n-0"]["response"]
    assert first["status_code"] == 200
    assert first["body"]["usage"]["completion_tokens"] == 4
    (error,) = read_file(client, batch.error_file_id).values()
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)
    assert "error" in error["response"]["body"]
    assert [each.id for each in client.batches.list()] == [batch.id]
    assert not BatchLine.objects.exists()

    events = [each for each in read_events(count=21) if each["status_code"] == 200]
    assert len({each["request_id"] for each in events}) == 20
    assert {each["is_batch"] for each in events} == {True}
    assert {each["key_id"] for each in events} == {ApiKey.objects.get().pk}
    now = datetime.now(UTC)
    start = now.replace(minute=0, second=0, microsecond=0)
    found = statements.statement(organization=organization, start=start, end=now, now=now)
    prices = {line.what.item: line.unit_price for line in found.lines if line.unit_price}
    assert prices == {"batch_output_tokens": 4}


@pytest.mark.parametrize(
    ("content", "code", "line", "param"),
    [
        (lines(1) + b"{no json\n", "invalid_json_line", 2, None),
        (lines(1) + lines(1), "duplicate_custom_id", 2, "custom_id"),
        (lines(1, method="GET"), "invalid_method", 1, "method"),
        (lines(1, url="/v1/embeddings"), "invalid_url", 1, "url"),
        (lines(1, custom_id=""), "missing_required_parameter", 1, "custom_id"),
        (lines(1, body=[]), "missing_required_parameter", 1, "body"),
        (lines(1, body={"model": "support"}), "missing_required_parameter", 1, "body.messages"),
        (lines(1, body={"model": "other", "messages": []}), "model_not_found", 1, "body.model"),
        (lines(1, extra=1), "unknown_parameter", 1, "extra"),
        (
            lines(1, body={"model": "support", "messages": [], "stream": True}),
            "unsupported_parameter",
            1,
            "body.stream",
        ),
    ],
)
def test_a_wrong_line_fails_the_batch_before_any_is_sent(
    client: openai.OpenAI, tmp_path: Path, content, code, line, param
) -> None:
    make_deployment(tmp_path / "models", Organization.objects.get())
    batch = create(client, content)
    run(batch.id)
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.errors is not None
    (error,) = batch.errors.data or []
    assert (error.code, error.line, error.param) == (code, line, param)
    assert batch.failed_at


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "1m"}, "completion_window"),
        ({"completion_window": "30d"}, "completion_window"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
        ({"metadata": {"k": "v" * 600}}, "metadata.k"),
    ],
)
def test_what_is_no_batch_is_refused_by_field(client: openai.OpenAI, fields, param) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        create(client, lines(1), **fields)
    assert refusal.value.param == param


def test_a_file_must_be_there_and_for_batches_and_the_key_for_inference(
    client: openai.OpenAI, live_server
) -> None:
    file = client.files.create(file=("in.jsonl", lines(1)), purpose="fine-tune")
    for file_id in (file.id, "file-" + "0" * 32):
        with pytest.raises(openai.BadRequestError, match="purpose 'batch'"):
            client.batches.create(
                input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
            )
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_" + "0" * 32)
    narrow = make_key(Organization.objects.get(), scopes=(Scope.FINE_TUNING,))
    other = openai.OpenAI(base_url=f"{live_server.url}/v1", api_key=narrow, max_retries=0)
    with pytest.raises(openai.PermissionDeniedError, match="inference"):
        create(other, lines(1))


def test_a_cancelled_batch_keeps_what_was_answered(client: openai.OpenAI, serve) -> None:
    serve(FAKE_DELAY_SECONDS="0.05")
    batch = create(client, lines(200))
    pk = Batch.objects.get().pk
    step_batch(pk, now=datetime.now(UTC))  # checks the lines
    worker = start_worker(pk)
    wait_for_answers(pk, 10)
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status == "cancelling"
    worker.wait(60)
    run(batch.id)
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "cancelled"
    done = batch.request_counts.completed
    assert 10 <= done < 200
    assert batch.request_counts.failed == 200 - done
    assert len(read_file(client, batch.output_file_id)) == done
    errors = read_file(client, batch.error_file_id).values()
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_a_killed_worker_loses_no_line_and_bills_none_twice(client: openai.OpenAI, serve) -> None:
    serve(FAKE_DELAY_SECONDS="0.02")
    batch = create(client, lines(120))
    pk = Batch.objects.get().pk
    step_batch(pk, now=datetime.now(UTC))
    for answered in (15, 45):
        worker = start_worker(pk)
        wait_for_answers(pk, answered)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait(10)
        Batch.objects.filter(pk=pk).update(leased_until=None)  # as after half a minute
    run(batch.id)
    batch = client.batches.retrieve(batch.id)
    assert batch.request_counts.model_dump() == {"total": 120, "completed": 120, "failed": 0}
    assert len(read_file(client, batch.output_file_id)) == 120
    organization, now = Organization.objects.get(), datetime.now(UTC)
    start = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    found = statements.statement(organization=organization, start=start, end=now, now=now)
    counted = {line.what.item: line.quantity for line in found.lines}
    assert counted["requests"] == 120
    assert counted["batch_output_tokens"] == 480


def test_what_is_left_when_the_window_ends_is_told(client: openai.OpenAI, tmp_path: Path) -> None:
    make_deployment(tmp_path / "models", Organization.objects.get())  # with no replica at all
    batch = create(client, lines(3), completion_window="1h")
    pk, now = Batch.objects.get().pk, datetime.now(UTC)
    step_batch(pk, now=now)
    assert client.batches.retrieve(batch.id).status == "in_progress"
    run(batch.id, now=now + timedelta(hours=2))
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.request_counts.failed) == ("expired", 3)
    errors = read_file(client, batch.error_file_id).values()
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}


def test_batches_leave_room_for_people(client: openai.OpenAI, serve, monkeypatch) -> None:
    serve()
    organization = Organization.objects.get()
    replica = Replica.objects.get()
    now = signals.Now(gateways=1)
    monkeypatch.setattr(signals, "read_now", lambda: now)

    def places(own: int = 0) -> int:
        return room.free_places(organization.pk, "support", own=own)

    assert places() == 14  # of 16, a tenth kept
    now.in_flight[str(replica.pk)] = 10
    assert places() == 4
    assert places(own=10) == 14  # those are its own
    now.in_flight[str(replica.pk)] = 40
    assert places() == 0
    now.in_flight.clear()
    now.held[str(replica.deployment_id)] = 1
    assert places() == 0
    monkeypatch.setattr(signals, "read_now", lambda: None)
    assert places() == 0


def test_a_lines_token_lets_in_for_a_while_and_cannot_be_made_up() -> None:
    ticket = BatchTicket(uuid4(), 7, "sk-af-abcd")
    token = sign(ticket, now=1000.0)
    assert read(token, now=1010.0) == ticket
    assert read(token, now=2000.0) is None
    assert read(token.replace("~7~", "~8~"), now=1010.0) is None
    for wrong in ("", "batch~", "batch~a~b~c~d~e", token[:-1], "~" * 9):
        assert read(wrong, now=1010.0) is None


def start_worker(pk: Any) -> subprocess.Popen[bytes]:
    """A step in a process of its own, on the test's database."""
    code = (
        "import django; django.setup()\n"
        "from datetime import UTC, datetime\nfrom uuid import UUID\n"
        "from django.conf import settings\nfrom django.db import connections\n"
        "from openai_api.batching import step_batch\n"
        f"connections['default'].settings_dict['NAME'] = {connection.settings_dict['NAME']!r}\n"
        f"settings.FACTORY_STORAGE = {django_settings.FACTORY_STORAGE!r}\n"
        f"settings.FACTORY_GATEWAY_URL = {django_settings.FACTORY_GATEWAY_URL!r}\n"
        f"settings.REDIS_URL = {django_settings.REDIS_URL!r}\n"
        f"while step_batch(UUID({str(pk)!r}), now=datetime.now(UTC)): pass\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=django_settings.BASE_DIR)


def wait_for_answers(pk: Any, count: int, *, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while Batch.objects.get(pk=pk).lines_completed < count:
        assert time.monotonic() < deadline, Batch.objects.values().get(pk=pk)
        time.sleep(0.05)
