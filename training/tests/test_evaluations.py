import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from accounts.models import ApiKey, AuditEvent
from accounts.tests.make import NOW, make_organization
from common.errors import InvalidInput, NotFound
from models_registry import storage
from models_registry.models import EvaluationResult
from models_registry.tests.make import make_revision
from training import asking, evaluate, services
from training.choices import EvaluationStatus
from training.models import Evaluation, EvaluationAnswer
from training.tests.make import chat_lines, make_version

pytestmark = pytest.mark.django_db
E = EvaluationStatus


class Platform(ThreadingHTTPServer):
    """A stand-in for the serving path: the tuned model is right, the base is not, and tests may
    have it answer `statuses[model]` instead, as often as the list has entries."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[tuple[str, str]] = Counter()
        self.bodies: list[dict] = []
        self.secrets: set[str] = set()
        self.statuses: dict[str, list[int]] = {}
        self.revisions: dict[str, str] = {}
        self.delay_seconds = 0.0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Platform

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, text = body["model"], body["messages"][-1]["content"]
        with self.server.lock:
            self.server.asked[name, text] += 1
            self.server.bodies.append(body)
            self.server.secrets.add(self.headers["Authorization"])
            planned = self.server.statuses.get(name) or [200]
            status = planned.pop(0) if len(planned) > 1 else planned[0]
        time.sleep(self.server.delay_seconds)
        answer = self.answer(name, text)
        if status != 200:
            answer = {"error": {"message": f"status {status} it is"}}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Revision-Id", self.server.revisions.get(name, ""))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, name: str, text: str) -> dict:
        number = text.rstrip("?").split()[-1]
        content = json.dumps({"order": number, "intent": "tracking"})
        if name == "base":
            content = "I do not know."
        message = {"role": "assistant", "content": content}
        usage = {"prompt_tokens": 9, "completion_tokens": 4}
        return {"choices": [{"message": message}], "usage": usage}

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def platform(settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    server = Platform()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.FACTORY_GATEWAY_URL = server.url
    monkeypatch.setattr(asking, "PAUSE_SECONDS", 0.01)
    yield server
    server.shutdown()
    server.server_close()


def want(**options: object) -> Evaluation:
    version = make_version(
        files={"train": chat_lines(2), "heldout": b"\n" + chat_lines(40, start=500)}
    )
    return services.create_evaluation(
        **{  # type: ignore[arg-type]
            "organization": make_organization(),
            "name": "compare",
            "dataset_version_id": version.pk,
            "split": "heldout",
            "model_names": ["base", "tuned"],
            "now": NOW,
        }
        | options
    )


def run(evaluation: Evaluation, *, seconds: float = 0, steps: int = 20) -> Evaluation:
    now = NOW + timedelta(seconds=seconds)
    for _ in range(steps):
        if not evaluate.step_evaluation(evaluation.pk, now=now):
            break
    return Evaluation.objects.get(pk=evaluation.pk)


def test_models_are_compared_through_the_serving_path(platform: Platform, tmp_path: Path) -> None:
    base = make_revision(tmp_path)
    tuned = make_revision(tmp_path, name="tuned", seed=1)
    platform.revisions = {"base": str(base.pk), "tuned": str(tuned.pk)}
    evaluation = run(want(max_tokens=50))
    assert evaluation.status == E.SUCCEEDED, evaluation.message
    assert (evaluation.examples_total, evaluation.answers_done) == (40, 80)
    assert evaluation.results["base"]["exact_match"] == 0.0
    assert evaluation.results["base"]["valid_json"] == 0.0
    assert evaluation.results["tuned"] == {
        "examples": 40,
        "exact_match": 1.0,
        "valid_json": 1.0,
        "fields": {"intent": 1.0, "order": 1.0},
        "metrics": {
            "exact_match": 1.0,
            "valid_json": 1.0,
            "field.intent": 1.0,
            "field.order": 1.0,
        },
        "errors": 0,
        "completion_tokens": 160,
    }
    assert set(platform.asked.values()) == {1}
    body = platform.bodies[0]
    assert (body["temperature"], body["max_tokens"]) == (0, 50)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    answer = EvaluationAnswer.objects.get(model_name="tuned", line=1)
    assert (answer.prompt, answer.revision) == ("Where is order 500?", tuned)
    result = EvaluationResult.objects.of(evaluation.organization).get(revision=tuned)
    assert result.metrics == {
        "exact_match": 1.0,
        "valid_json": 1.0,
        "field.intent": 1.0,
        "field.order": 1.0,
    }
    assert (result.dataset_name, result.split) == ("tickets:1", "heldout")
    assert EvaluationResult.objects.get(revision=base).metrics["exact_match"] == 0.0


def test_keys_are_internal_bound_to_the_models_and_revoked(platform: Platform) -> None:
    run(want())
    key = ApiKey.objects.get()
    assert key.is_internal
    assert key.scopes == ["inference"]
    assert key.allowed_models == ["base", "tuned"]
    assert key.revoked_at is not None
    assert key.expires_at is not None
    (sent,) = platform.secrets
    assert sent.startswith(f"Bearer {key.prefix}")
    assert not AuditEvent.objects.filter(action__startswith="api_key").exists()


def test_slices_go_on_where_the_last_ended(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "ROUND", 8)
    monkeypatch.setattr(evaluate, "SLICE_SECONDS", 0.2)
    platform.delay_seconds = 0.05  # so a slice is over after about four rounds of ten
    evaluation = want()
    assert run(evaluation, steps=2).status == E.RUNNING
    partly = run(evaluation, steps=1)
    assert 0 < partly.answers_done < 80
    assert sum(each["examples"] for each in partly.results.values()) == partly.answers_done
    assert run(evaluation, steps=200).status == E.SUCCEEDED
    assert set(platform.asked.values()) == {1}
    assert EvaluationAnswer.objects.count() == 80


def test_a_kill_before_the_write_asks_again_and_counts_once(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = want(limit=5)
    run(evaluation, steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_note", lambda *a, **k: 1 / 0)
        patch.setattr(evaluate, "_conclude", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(evaluation)
    assert run(evaluation, seconds=5).status == E.RUNNING  # the lease is still out
    done = run(evaluation, seconds=30)
    assert (done.status, done.answers_done, done.examples_total) == (E.SUCCEEDED, 10, 5)


def test_a_model_that_is_not_ready_is_waited_for(platform: Platform) -> None:
    platform.statuses = {"base": [503]}
    evaluation = want(limit=4)
    waiting = run(evaluation)
    assert (waiting.status, waiting.status_reason) == (E.RUNNING, "model_not_ready")
    assert "status 503" in waiting.message
    assert waiting.answers_done == 4  # the other model is not held up
    platform.statuses = {}
    assert run(evaluation, seconds=1).status == E.RUNNING  # a pause between looks
    done = run(evaluation, seconds=10)
    assert (done.status, done.message, done.waiting_since) == (E.SUCCEEDED, "", None)


@pytest.mark.parametrize(
    ("status", "minutes", "reason"), [(503, 31, "model_not_ready"), (404, 2, "model_not_found")]
)
def test_waiting_has_an_end(platform: Platform, status: int, minutes: int, reason: str) -> None:
    platform.statuses = {"base": [status], "tuned": [status]}
    evaluation = want(limit=2)
    assert run(evaluation).status == E.RUNNING
    failed = run(evaluation, seconds=60 * minutes)
    assert (failed.status, failed.status_reason) == (E.FAILED, reason)
    assert f"status {status}" in failed.message


def test_nobody_at_the_gateway_is_waited_for(settings) -> None:
    settings.FACTORY_GATEWAY_URL = "http://127.0.0.1:9"
    waiting = run(want(limit=1))
    assert waiting.status_reason == "model_not_ready"
    assert "cannot be reached" in waiting.message


def test_passing_faults_are_tried_again(platform: Platform) -> None:
    platform.statuses = {"tuned": [502, 500, 200]}
    done = run(want(limit=1))
    assert done.results["tuned"]["errors"] == 0
    assert platform.asked["tuned", "Where is order 500?"] == 3


def test_answers_that_never_came_count_as_wrong(platform: Platform) -> None:
    platform.statuses = {"base": [400], "tuned": [200]}
    done = run(want(limit=3))
    assert done.status == E.SUCCEEDED
    assert done.results["base"]["errors"] == 3
    assert done.results["base"]["exact_match"] == 0
    error = EvaluationAnswer.objects.filter(model_name="base").first()
    assert error is not None
    assert error.error == "400: status 400 it is"


def test_no_answers_at_all_are_a_failure(platform: Platform) -> None:
    platform.statuses = {"base": [400], "tuned": [500]}
    failed = run(want(limit=2))
    assert (failed.status, failed.status_reason) == (E.FAILED, "no_answers")
    assert not EvaluationResult.objects.exists()


def test_a_cancelled_evaluation_keeps_its_answers(platform: Platform) -> None:
    platform.statuses = {"base": [503]}
    evaluation = run(want(limit=3))
    services.cancel_evaluation(
        organization=evaluation.organization, evaluation_id=evaluation.pk, now=NOW
    )
    over = run(evaluation, seconds=30)
    assert (over.status, over.answers_done) == (E.CANCELLED, 3)
    Evaluation.objects.update(cancel_requested_at=None)
    with pytest.raises(services.EvaluationIsOver):
        services.cancel_evaluation(
            organization=evaluation.organization, evaluation_id=evaluation.pk, now=NOW
        )


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": "a/b"}, "name"),
        ({"split": "trial"}, "split"),
        ({"model_names": []}, "models"),
        ({"model_names": ["a", "a"]}, "models"),
        ({"model_names": [" "]}, "models"),
        ({"limit": 0}, "limit"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_refusals_name_the_field(options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        want(**options)
    assert refused.value.field == field


def test_what_is_others_does_not_exist_for_us() -> None:
    bank = make_organization("bank")
    evaluation = want()
    with pytest.raises(NotFound):
        services.cancel_evaluation(organization=bank, evaluation_id=evaluation.pk, now=NOW)
    with pytest.raises(NotFound):
        services.create_evaluation(
            organization=bank,
            name="compare",
            dataset_version_id=evaluation.split.version_id,
            split="heldout",
            model_names=["base"],
            now=NOW,
        )


def test_what_no_row_can_hold_does_not_keep_an_evaluation_from_its_end() -> None:
    line = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": '{"a\\u0000b": 1, "c\\ud800": 2}'},
        ]
    }
    version = make_version(name="odd", files={"heldout": json.dumps(line).encode()})
    evaluation = want(dataset_version_id=version.pk)
    replies = [asking.Reply(each, text="{}") for each in evaluate._questions(evaluation)]
    evaluate._store(evaluation, asking.Outcome(replies=replies))
    assert EvaluationAnswer.objects.get(model_name="tuned").fields == {"ab": False, "c?": False}
    said = rb'{"choices": [{"message": {"content": "a\u0000\ud800"}}]}'
    answer = httpx.Response(200, content=said)
    assert asking._read(replies[0].question, answer).text == "a?"


def test_lines_that_are_gone_from_the_storage_are_a_failure(platform: Platform) -> None:
    evaluation = want()
    storage.blob_path(evaluation.split.blob_id).unlink()
    evaluation = run(evaluation)
    assert (evaluation.status, evaluation.status_reason) == (E.FAILED, "blob_missing")


def test_calls_of_tools_are_compared_by_what_they_mean() -> None:
    call = {"name": "find_order", "arguments": '{"id": 7, "fast": true}'}
    message = {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
    line: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Where is 7?"}, {**message, "content": None}],
        "tools": [{"type": "function", "function": {"name": "find_order", "parameters": {}}}],
    }
    line["messages"][1]["tool_calls"][0]["id"] = "call_1"
    version = make_version(name="calls", files={"heldout": json.dumps(line).encode()})
    evaluation = want(dataset_version_id=version.pk)
    question = next(evaluate._questions(evaluation))
    assert question.body["tools"][0]["function"]["name"] == "find_order"
    said = {"name": "find_order", "arguments": '{"fast":true,"id":7}'}
    body = {"choices": [{"message": {"content": None, "tool_calls": [{"function": said}]}}]}
    reply = asking._read(question, httpx.Response(200, json=body))
    evaluate._store(evaluation, asking.Outcome(replies=[reply]))
    assert EvaluationAnswer.objects.get().is_exact
