"""The judges' part of an evaluation: each answer put to a served model with the rubric.

It begins when all answers are there. What a judge has said of an answer is noted in
`EvaluationAnswer.notes`; an answer without a note is still to be judged.
"""

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Count, QuerySet

from accounts import services as accounts
from accounts.choices import Scope
from common.texts import storable
from models_registry import storage
from training import asking, chat_lines, results
from training.asking import Outcome, Question, Reply, Wait
from training.metrics import judge as judging
from training.metrics.judge import Judge
from training.models import Evaluation, EvaluationAnswer

ROUND = 32  # lines between two writes
KEY_LIFE = timedelta(minutes=15)
DRAWN = {"temperature": 0.7, "seed": 1, "max_tokens": 2 * judging.MAX_TOKENS}
NOT_UNDERSTOOD = "The judge's answer could not be understood."
NO_ANSWER = "There was no answer to judge."


@dataclass(frozen=True)
class _Asked:
    """What a question to a judge is about. `side`: "" alone, or the candidate's place in a pair."""

    judge: Judge
    answer: EvaluationAnswer
    side: str = ""


def count_open(evaluation: Evaluation) -> int:
    """Judgements that are still to be made."""
    return sum(_open(evaluation, judge).count() for judge in results.judges(evaluation))


def judge_for_a_while(evaluation: Evaluation, *, seconds: float, now: datetime) -> dict[str, Wait]:
    """Until time is up or all is judged; by judge's model, why it cannot answer."""
    judges = results.judges(evaluation)
    waits: dict[str, Wait] = {}
    if not any(_open(evaluation, judge).exists() for judge in judges):
        return waits
    key = accounts.issue_api_key(
        organization=evaluation.organization,
        name=f"judge of {evaluation.name}"[:80],
        scopes=[Scope.INFERENCE],
        allowed_models=sorted({judge.model for judge in judges}),
        expires_at=now + KEY_LIFE,
        is_internal=True,
        now=now,
    )
    until = time.monotonic() + seconds
    try:
        for judge in judges:
            for lines in _batches(evaluation, judge):
                if time.monotonic() >= until or judge.model in waits:
                    break
                asked = list(_questions(evaluation, judge, lines))
                outcome = _ask([question for question, _ in asked], key.secret, until)
                waits |= outcome.waits
                replies = _ask_again(judge, outcome.replies, key.secret, until)
                _store({question.key: about for question, about in asked}, replies)
    finally:
        accounts.revoke_api_key(organization=evaluation.organization, key_id=key.row.pk, now=now)
    return waits


def count_failures(evaluation: Evaluation) -> dict[str, dict[str, int]]:
    """By model and judge, how many answers it was asked about without a verdict that could be
    understood. Where there are none there is no entry."""
    found: dict[str, dict[str, int]] = {}
    for judge in results.judges(evaluation):
        rows = EvaluationAnswer.objects.filter(
            evaluation=evaluation, notes__has_key=judge.name
        ).exclude(scores__has_key=judge.name)
        counted = rows.order_by().values_list("model_name").annotate(count=Count("pk"))
        for model_name, count in counted:
            found.setdefault(model_name, {})[judge.name] = count
    return found


def _ask(questions: list[Question], secret: str, until: float) -> Outcome:
    return asking.ask(
        questions,
        base_url=settings.FACTORY_GATEWAY_URL,
        secret=secret,
        max_tokens=judging.MAX_TOKENS,
        seconds=max(0.0, until - time.monotonic()),
    )


def _ask_again(judge: Judge, replies: list[Reply], secret: str, until: float) -> list[Reply]:
    """Where an answer of the judge cannot be understood, once more: as it came at temperature 0 it
    would come again, so it is drawn, from a seed of its own that makes it repeatable."""
    lost = {
        reply.question.key: replace(reply.question, body={**reply.question.body, **DRAWN})
        for reply in replies
        if not reply.error and judging.read(judge, reply.text) is None
    }
    if not lost:
        return replies
    second = {reply.question.key: reply for reply in _ask([*lost.values()], secret, until).replies}
    return [second.get(reply.question.key, reply) for reply in replies]


def _open(evaluation: Evaluation, judge: Judge) -> QuerySet[EvaluationAnswer]:
    rows = EvaluationAnswer.objects.filter(evaluation=evaluation)
    if judge.mode == "pairs":
        rows = rows.exclude(model_name=evaluation.model_names[0])
    return rows.exclude(notes__has_key=judge.name)


Line = tuple[int, bytes]


def _batches(evaluation: Evaluation, judge: Judge) -> Iterator[list[Line]]:
    """The split's lines from the first that is still to be judged on."""
    first = _open(evaluation, judge).order_by("line").values_list("line", flat=True).first()
    if first is None:
        return
    with storage.open_blob(evaluation.split.blob_id) as file:
        numbered = ((number, raw) for number, raw in enumerate(file, start=1) if raw.strip())
        lines = itertools.dropwhile(lambda line: line[0] < first, numbered)
        while batch := list(itertools.islice(lines, ROUND)):
            yield batch


def _questions(
    evaluation: Evaluation, judge: Judge, lines: list[Line]
) -> Iterator[tuple[Question, _Asked]]:
    numbers = [number for number, _ in lines]
    by_line: defaultdict[int, list[EvaluationAnswer]] = defaultdict(list)
    for row in _open(evaluation, judge).filter(line__in=numbers):
        by_line[row.line].append(row)
    baseline = evaluation.model_names[0]
    rows = EvaluationAnswer.objects.filter(evaluation=evaluation, model_name=baseline)
    beside = {row.line: row for row in rows.filter(line__in=numbers)}
    for number, raw in lines:
        if not by_line[number]:
            continue
        conversation = chat_lines.parse(raw).prompt
        for answer in by_line[number]:
            if judge.mode == "pairs":
                yield from _pair(judge, conversation, answer, beside.get(number))
            elif answer.error:
                _note(answer, judge, judging.LOWEST, NO_ANSWER)
            else:
                body = judging.ask_for_score(
                    judge,
                    conversation=conversation,
                    expected=answer.expected,
                    answer=answer.answer,
                )
                yield _question(judge, answer, body), _Asked(judge, answer)


def _pair(
    judge: Judge,
    conversation: list[dict[str, Any]],
    answer: EvaluationAnswer,
    other: EvaluationAnswer | None,
) -> Iterator[tuple[Question, _Asked]]:
    failed = other is None or bool(other.error)
    if answer.error or failed or other is None:
        value = 0.5 if bool(answer.error) == failed else 0.0 if answer.error else 1.0
        _note(answer, judge, value, NO_ANSWER)
        return
    for side, (first, second) in {"A": (answer, other), "B": (other, answer)}.items():
        body = judging.ask_for_choice(
            judge,
            conversation=conversation,
            expected=answer.expected,
            first=first.answer,
            second=second.answer,
        )
        yield _question(judge, answer, body, side), _Asked(judge, answer, side)


def _question(
    judge: Judge, answer: EvaluationAnswer, body: dict[str, Any], side: str = ""
) -> Question:
    messages = tuple(body.pop("messages"))
    return Question(
        judge.model,
        answer.line,
        messages,
        answer.expected,
        key=f"{answer.pk}{side}",
        body=body,
    )


def _store(asked: dict[str, _Asked], replies: list[Reply]) -> None:
    said: defaultdict[EvaluationAnswer, dict[str, Reply]] = defaultdict(dict)
    judges: dict[EvaluationAnswer, Judge] = {}
    for reply in replies:
        about = asked[reply.question.key]
        said[about.answer][about.side] = reply
        judges[about.answer] = about.judge
    for answer, by_side in said.items():
        judge = judges[answer]
        if judge.mode == "pairs" and len(by_side) < 2:
            continue  # the other half was not asked any more
        verdicts = {
            side: None if reply.error else judging.read(judge, reply.text)
            for side, reply in by_side.items()
        }
        straight = verdicts.get("A" if judge.mode == "pairs" else "")
        swapped = verdicts.get("B")
        if straight is None or (judge.mode == "pairs" and swapped is None):
            errors = [reply.error for reply in by_side.values() if reply.error]
            _note(answer, judge, None, errors[0] if errors else NOT_UNDERSTOOD)
        elif swapped is None:
            _note(answer, judge, float(straight.value), straight.reason)
        else:
            reason = f"{straight.value}: {straight.reason} / {swapped.value}: {swapped.reason}"
            _note(answer, judge, judging.settle(straight, swapped), reason)


def _note(answer: EvaluationAnswer, judge: Judge, value: float | None, reason: str) -> None:
    """Written at once: a judge is slow, and what it said is paid for."""
    answer.notes[judge.name] = storable(reason)
    if value is not None:
        answer.scores[judge.name] = float(value)
    answer.save(update_fields=["notes", "scores"])


def settle_baselines(evaluation: Evaluation) -> None:
    """In pairs the baseline is what others are held against: all its answers stand at one half."""
    names = [judge.name for judge in results.judges(evaluation) if judge.mode == "pairs"]
    if not names or len(evaluation.model_names) < 2:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE training_evaluationanswer SET scores = scores || %s::jsonb"
            " WHERE evaluation_id = %s AND model_name = %s",
            [
                json.dumps(dict.fromkeys(names, 0.5)),
                evaluation.pk,
                evaluation.model_names[0],
            ],
        )
