"""Carrying out evaluations: a slice of questions at a time, each answered line written once."""

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings

from accounts import services as accounts
from accounts.choices import Scope
from common import leases
from common.errors import DomainError
from models_registry import storage
from models_registry.models import Revision
from training import asking, chat_lines, judging, likelihood, results, scoring, scratch
from training.asking import Outcome, Question, Reply, Wait
from training.benchmarks import stepping
from training.choices import EVALUATION_OVER, EvaluationStatus
from training.metrics import reading
from training.metrics.scorer import Scorer
from training.models import Evaluation, EvaluationAnswer

logger = logging.getLogger(__name__)

E = EvaluationStatus
LEASE_SECONDS = 20.0
SLICE_SECONDS = 10.0
PAUSE_SECONDS = 5.0
ROUND = 128  # questions between two writes
KEY_LIFE = timedelta(minutes=15)
# How long to wait for a model that cannot answer, since it last did. A route that is not there may
# be about to be; a replica may have to be placed first and load its weights.
WAIT = timedelta(minutes=30)
WAIT_FOR_ROUTE = timedelta(minutes=1)


def step_evaluation(evaluation_id: UUID, *, now: datetime) -> bool:
    """Ten seconds of work on an evaluation; true if another step should follow at once."""
    rows = Evaluation.objects.exclude(status__in=EVALUATION_OVER)
    evaluation = leases.take(rows, evaluation_id, now=now, seconds=LEASE_SECONDS)
    if evaluation is None:
        return False
    with leases.kept(evaluation, seconds=LEASE_SECONDS):
        if evaluation.cancel_requested_at is not None:
            with leases.finish(evaluation) as current:
                _end(current, E.CANCELLED, "cancelled", "", now=now)
            return False
        if evaluation.status == E.PENDING:
            return _begin(evaluation, now=now)
        if stepping.is_benchmark(evaluation):
            return stepping.step(evaluation, now=now)
        likely = 0  # how many more lines a model was asked the likelihood of
        try:
            waits = _ask_for_a_while(evaluation, now=now)
            is_over = next(_questions(evaluation), None) is None
            if is_over:
                waits = judging.judge_for_a_while(evaluation, seconds=SLICE_SECONDS, now=now)
                is_over = judging.count_open(evaluation) == 0
            if is_over:
                before = likelihood.count_open(evaluation)
                waits = likelihood.measure_for_a_while(evaluation, seconds=SLICE_SECONDS, now=now)
                after = likelihood.count_open(evaluation)
                is_over, likely = after == 0, before - after
        except DomainError as error:  # such as lines that are no longer in the storage
            with leases.finish(evaluation) as current:
                message = f"{error.message} {error.remedy}".strip()
                _end(current, E.FAILED, error.code, message, now=now)
            return False
        if is_over:
            _conclude(evaluation, now=now)
            return False
        with leases.finish(evaluation) as current:
            goes_on = _note(current, waits, has_moved=likely > 0, now=now)
    if waits:  # a lease that nobody works under: the pause before the model is asked again
        leases.take(rows, evaluation.pk, now=now, seconds=PAUSE_SECONDS)
    return goes_on


def _begin(evaluation: Evaluation, *, now: datetime) -> bool:
    total = evaluation.split.examples
    if evaluation.limit is not None:
        total = min(total, evaluation.limit)
    with leases.finish(evaluation) as current:
        current.examples_total = total
        current.judgements_total = sum(
            total * (len(current.model_names) - (judge.mode == "pairs"))
            for judge in results.judges(current)
        )
        current.save(update_fields=["examples_total", "judgements_total"])
        current.transition(E.RUNNING, now=now, reason="began")
    return True


def _ask_for_a_while(evaluation: Evaluation, *, now: datetime) -> dict[str, Wait]:
    """Put questions until the slice is over or all are answered; by model, why it cannot."""
    waits: dict[str, Wait] = {}
    questions = _questions(evaluation)
    first = list(itertools.islice(questions, ROUND))
    if not first:
        return waits
    key = accounts.issue_api_key(
        organization=evaluation.organization,
        name=f"evaluation {evaluation.name}"[:80],
        scopes=[Scope.INFERENCE],
        allowed_models=evaluation.model_names,
        expires_at=now + KEY_LIFE,
        is_internal=True,
        now=now,
    )
    until = time.monotonic() + SLICE_SECONDS
    try:
        batch = first
        while batch and time.monotonic() < until:
            asked = [question for question in batch if question.model_name not in waits]
            outcome = asking.ask(
                asked,
                base_url=settings.FACTORY_GATEWAY_URL,
                secret=key.secret,
                max_tokens=evaluation.max_tokens,
                seconds=until - time.monotonic(),
            )
            waits |= outcome.waits
            _store(evaluation, outcome)
            if len(waits) == len(evaluation.model_names):
                break
            batch = list(itertools.islice(questions, ROUND))
    finally:
        accounts.revoke_api_key(organization=evaluation.organization, key_id=key.row.pk, now=now)
    return waits


def _questions(evaluation: Evaluation) -> Iterator[Question]:
    """What is not answered yet, line by line, every model in turn."""
    answered = set(
        EvaluationAnswer.objects.filter(evaluation=evaluation).values_list("model_name", "line")
    )
    with storage.open_blob(evaluation.split.blob_id) as file:
        numbered = ((number, raw) for number, raw in enumerate(file, start=1) if raw.strip())
        for number, raw in itertools.islice(numbered, evaluation.limit):
            open_models = [
                name for name in evaluation.model_names if (name, number) not in answered
            ]
            if open_models:
                line = chat_lines.parse(raw)
                messages, expected = tuple(line.prompt), asking.told(line.messages[-1])
                body = {"tools": line.tools} if line.tools else {}
                for name in open_models:
                    yield Question(name, number, messages, expected, body=body)


def _store(evaluation: Evaluation, outcome: Outcome) -> None:
    known = _known_revisions(evaluation, outcome.replies)
    scorers = reading.scorers(evaluation.metrics)
    EvaluationAnswer.objects.bulk_create(
        (_answer(evaluation, reply, known, scorers) for reply in outcome.replies),
        ignore_conflicts=True,
    )


def _known_revisions(evaluation: Evaluation, replies: Sequence[Reply]) -> dict[str, Revision]:
    ids = {reply.revision_id for reply in replies if _is_id(reply.revision_id)}
    rows = Revision.objects.of(evaluation.organization).filter(pk__in=ids)
    return {str(row.pk): row for row in rows}


def _answer(
    evaluation: Evaluation,
    reply: Reply,
    revisions: dict[str, Revision],
    scorers: Sequence[Scorer],
) -> EvaluationAnswer:
    question = reply.question
    if reply.error:
        scored = scoring.nothing(question.expected, scorers)
    else:
        scored = scoring.score(question.expected, reply.text, scorers)
    return EvaluationAnswer(
        evaluation=evaluation,
        model_name=question.model_name,
        revision=revisions.get(reply.revision_id),
        line=question.line,
        prompt=str(question.messages[-1].get("content") or ""),
        expected=question.expected,
        answer=reply.text,
        is_exact=scored.is_exact,
        fields=scored.fields,
        scores=scored.scores,
        error=reply.error,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
    )


def _note(
    evaluation: Evaluation, waits: dict[str, Wait], *, has_moved: bool, now: datetime
) -> bool:
    """Progress so far; true to go on at once, false to come back later or never."""
    before = evaluation.answers_done, evaluation.judgements_done
    _count(evaluation)
    moved = has_moved or (evaluation.answers_done, evaluation.judgements_done) != before
    evaluation.results = results.summarize(evaluation)
    evaluation.status_reason = evaluation.message = ""
    if moved or not waits:
        evaluation.waiting_since = None
    if waits:
        name, wait = next(iter(waits.items()))
        missing = wait.status == 404
        evaluation.waiting_since = evaluation.waiting_since or now
        evaluation.status_reason = "model_not_found" if missing else "model_not_ready"
        evaluation.message = f"{name}: {wait.message}"
        limit = WAIT_FOR_ROUTE if missing else WAIT
        if now - evaluation.waiting_since > limit:
            _save(evaluation)
            _end(evaluation, E.FAILED, evaluation.status_reason, evaluation.message, now=now)
            return False
    _save(evaluation)
    return moved and not waits


def _count(evaluation: Evaluation) -> None:
    evaluation.answers_done = EvaluationAnswer.objects.filter(evaluation=evaluation).count()
    if evaluation.judgements_total and evaluation.answers_done:
        open_ones = judging.count_open(evaluation)
        missing = evaluation.examples_total * len(evaluation.model_names) - evaluation.answers_done
        done = evaluation.judgements_total - open_ones - missing * len(results.judges(evaluation))
        evaluation.judgements_done = max(0, done)


def _conclude(evaluation: Evaluation, *, now: datetime) -> None:
    judging.settle_baselines(evaluation)
    found = results.compare(evaluation)
    with leases.finish(evaluation) as current:
        _count(current)
        current.results = results.summarize(current)
        current.problems = likelihood.problems(current)
        _tell_unjudged(current)
        current.comparisons = results.against_baseline(current, found)
        current.waiting_since = None
        revisions = _revisions(current)
        current.revision_ids = {name: str(pk) for name, pk in revisions.items()}
        _save(current)
        if all(each["errors"] == each["examples"] for each in current.results.values()):
            message = "No model gave an answer; see the errors of single answers."
            _end(current, E.FAILED, "no_answers", message, now=now)
            return
        results.keep(current, revisions, found, now=now)
        _end(current, E.SUCCEEDED, "answered", "", now=now)


def _tell_unjudged(evaluation: Evaluation) -> None:
    """How many answers a judge could not be understood about, beside the figures it counts in."""
    for name, by_judge in judging.count_failures(evaluation).items():
        result = evaluation.results[name]
        result["unjudged"] = by_judge
        for judge, count in by_judge.items():
            said = (
                f"{count} of {result['examples']} answers have no verdict that could be understood"
            )
            tail = (
                ", too many for a gate."
                if judge in results.hardly_judged(evaluation)[name]
                else "."
            )
            evaluation.problems[f"{judge} of {name}"] = said + tail


def _revisions(evaluation: Evaluation) -> dict[str, UUID]:
    """The revision behind each model; none for one that changed hands meanwhile."""
    rows = EvaluationAnswer.objects.filter(evaluation=evaluation, revision__isnull=False)
    seen: dict[str, set[UUID]] = {}
    for name, revision_id in rows.order_by().values_list("model_name", "revision").distinct():
        seen.setdefault(name, set()).add(revision_id)
    return {name: ids.pop() for name, ids in seen.items() if len(ids) == 1}


def _save(evaluation: Evaluation) -> None:
    evaluation.save(
        update_fields=[
            "answers_done",
            "judgements_done",
            "results",
            "comparisons",
            "problems",
            "revision_ids",
            "status_reason",
            "message",
            "waiting_since",
        ]
    )


def _end(evaluation: Evaluation, status: E, reason: str, message: str, *, now: datetime) -> None:
    evaluation.ended_at = now
    evaluation.save(update_fields=["ended_at"])
    scratch.clear(evaluation)
    evaluation.transition(status, now=now, reason=reason, message=message)


def _is_id(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False
