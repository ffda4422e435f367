"""Judges are asked through the same path, after the answers, and resume where they were."""

import json
import threading
from collections.abc import Iterator

import pytest

from accounts.models import ApiKey
from accounts.tests.make import NOW
from training import asking, judging, results, services
from training.answers import Filter
from training.choices import EvaluationStatus
from training.metrics import judge
from training.models import EvaluationAnswer
from training.tests.test_evaluations import Handler, Platform, run, want

pytestmark = pytest.mark.django_db
SCORE = {"kind": "judge", "model": "judge", "rubric": "Is it an order's number as JSON?"}


class Judges(Handler):
    """Rates JSON 5 and prose 2; of a pair it likes JSON, and what comes first if both are alike."""

    def answer(self, name: str, text: str) -> dict:
        if name != "judge":
            return super().answer(name, text)
        parts = [part.split("\n<<<end>>>")[0] for part in text.split(">>>\n")[1:]]
        if "Answer A" in text:
            first, second = (each.startswith("{") for each in parts[-2:])
            better = "A" if first >= second else "B"
            said: dict = {"reason": "because", "better": better}
        else:
            said = {"reason": "looks right", "score": 5 if parts[-1].startswith("{") else 2}
        usage = {"prompt_tokens": 9, "completion_tokens": 4}
        return {"choices": [{"message": {"content": json.dumps(said)}}], "usage": usage}


@pytest.fixture
def platform(settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    server = Platform()
    server.RequestHandlerClass = Judges
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.FACTORY_GATEWAY_URL = server.url
    monkeypatch.setattr(asking, "PAUSE_SECONDS", 0.01)
    yield server
    server.shutdown()
    server.server_close()


def test_each_answer_is_rated_with_a_reason(platform: Platform) -> None:
    evaluation = run(want(metrics=[SCORE], limit=10))
    assert evaluation.status == EvaluationStatus.SUCCEEDED, evaluation.message
    assert evaluation.results["tuned"]["metrics"]["judge"] == 5
    assert evaluation.results["base"]["metrics"]["judge"] == 2
    assert (evaluation.judgements_done, evaluation.judgements_total) == (20, 20)
    seen = evaluation.comparisons["tuned"]["judge"]
    assert (seen["difference"], seen["verdict"], seen["wins"]) == (3, "better", 10)
    answer = EvaluationAnswer.objects.filter(model_name="tuned").first()
    assert answer is not None
    assert answer.notes == {"judge": "looks right"}
    asked = next(body for body in platform.bodies if body["model"] == "judge")
    assert asked["temperature"] == 0
    assert asked["response_format"]["json_schema"]["strict"] is True
    key = ApiKey.objects.filter(name__startswith="judge").get()
    assert (key.allowed_models, key.is_internal) == (["judge"], True)
    assert key.revoked_at is not None


def test_pairs_are_asked_both_ways_round(platform: Platform) -> None:
    pairs = {**SCORE, "mode": "pairs"}
    evaluation = run(want(metrics=[pairs], limit=4, model_names=["base", "tuned", "tuned2"]))
    assert evaluation.status == EvaluationStatus.SUCCEEDED, evaluation.message
    assert evaluation.judgements_total == 8
    assert evaluation.results["base"]["metrics"]["judge"] == 0.5
    assert evaluation.results["tuned"]["metrics"]["judge"] == 1
    judged = [body for body in platform.bodies if body["model"] == "judge"]
    assert len(judged) == 16  # four lines, two candidates, both ways
    again = services.create_evaluation(
        organization=evaluation.organization,
        name="alike",
        dataset_version_id=evaluation.split.version_id,
        split="heldout",
        model_names=["tuned", "tuned2"],
        metrics=[pairs],
        limit=4,
        now=NOW,
    )
    alike = run(again)
    assert alike.results["tuned2"]["metrics"]["judge"] == 0.5  # its place won, not the answer
    assert alike.comparisons["tuned2"]["judge"]["verdict"] == "unclear"


def test_a_judge_that_is_away_is_waited_for_and_nothing_is_asked_twice(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "ROUND", 2)
    platform.statuses = {"judge": [200, 200, 200, 503]}
    evaluation = want(metrics=[SCORE], limit=6, model_names=["tuned"])
    waiting = run(evaluation)
    assert (waiting.status, waiting.status_reason) == (EvaluationStatus.RUNNING, "model_not_ready")
    before = waiting.judgements_done
    assert 0 < before < 6
    platform.statuses = {}
    done = run(evaluation, seconds=10)
    assert (done.status, done.judgements_done) == (EvaluationStatus.SUCCEEDED, 6)
    assert sum(body["model"] == "tuned" for body in platform.bodies) == 6


def test_a_verdict_that_cannot_be_understood_is_left_out(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "read", lambda *_: None)
    done = run(want(metrics=[SCORE], limit=2, model_names=["tuned"]))
    assert done.status == EvaluationStatus.SUCCEEDED
    assert "judge" not in done.results["tuned"]["metrics"]
    assert done.results["tuned"]["unjudged"] == {"judge": 2}
    assert "2 of 2 answers" in done.problems["judge of tuned"]
    asked = [body for body in platform.bodies if body["model"] == "judge"]
    assert [body["temperature"] for body in asked] == [0, 0, 0.7, 0.7]  # once more, then no more
    assert EvaluationAnswer.objects.values_list("notes__judge", flat=True)[0] == (
        judging.NOT_UNDERSTOOD
    )


def test_answers_are_found_by_who_won(platform: Platform) -> None:
    platform.statuses = {}
    evaluation = run(want(limit=5, metrics=[{"kind": "rouge"}]))
    EvaluationAnswer.objects.filter(model_name="tuned", line=2).update(
        scores={"exact_match": 0.0, "rouge_l": 0.5}, is_exact=False
    )
    EvaluationAnswer.objects.filter(model_name="base", line=2).update(
        scores={"exact_match": 0.0, "rouge_l": 0.7}
    )

    def lines(**chosen: str) -> list[int]:
        return list(Filter(**chosen).of(evaluation).values_list("line", flat=True))

    assert lines() == [1, 2, 3, 4, 5]
    assert lines(show="wrong") == [2]
    assert lines(show="differ") == lines(show="won") == [1, 3, 4, 5]
    assert lines(show="lost", metric="rouge_l") == [2]
    assert lines(show="wrong", candidate="base") == [1, 2, 3, 4, 5]
    assert lines(show="won", candidate="base") == []
    assert results.summarize(evaluation)["tuned"]["exact_match"] == 0.8
