"""An evaluation answer by answer: what each model said to a line, and where it went wrong."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from common.errors import InvalidInput
from console import differences, intervals
from console.differences import Part
from console.pages import ConsoleRequest, console_page, show
from console.views.evaluations import find
from training.answers import Filter
from training.models import Evaluation, EvaluationAnswer

LINES_A_PAGE = 20
MOST_CHARACTERS = 20_000  # of one text


@dataclass(frozen=True)
class Said:
    """What one model answered, with its scores and what differs from the expected."""

    answer: EvaluationAnswer
    parts: list[Part]
    scores: list[tuple[str, str, bool]]  # label, value, whether it is as good as can be
    notes: list[tuple[str, str]]


@dataclass(frozen=True)
class Line:
    """One line of the split, and what each model answered."""

    number: int
    prompt: str
    expected: str
    said: list[Said]


@console_page()
def evaluation_answers(request: ConsoleRequest, evaluation_id: UUID) -> HttpResponse:
    evaluation = find(request, evaluation_id)
    chosen = _filter(request, evaluation)
    after, before = _number(request.GET.get("after")), _number(request.GET.get("before"))
    numbers, has_more, has_less = _numbers(evaluation, chosen, after=after, before=before)
    state = {"show": chosen.show, "candidate": chosen.candidate, "metric": chosen.metric}
    return show(
        request,
        "console/evaluations/answers.html",
        {
            "title": _("Answers of %(name)s") % {"name": evaluation.name},
            "crumbs": [
                {"label": _("Evaluations"), "url": reverse("console:evaluations")},
                {
                    "label": evaluation.name,
                    "url": reverse("console:evaluation", args=[evaluation.pk]),
                },
            ],
            "evaluation": evaluation,
            "chosen": chosen,
            "filters": [
                ("all", _("All answers")),
                ("differ", _("Where they differ")),
                ("wrong", _("Not right")),
                ("lost", _("Worse than the baseline")),
                ("won", _("Better than the baseline")),
            ],
            "metrics": [(name, intervals.label_of(name)) for name in _metrics(evaluation)],
            "lines": _lines(evaluation, numbers),
            "next": f"?{urlencode(state | {'after': numbers[-1]})}" if has_more else "",
            "previous": f"?{urlencode(state | {'before': numbers[0]})}" if has_less else "",
        },
    )


def _filter(request: ConsoleRequest, evaluation: Evaluation) -> Filter:
    """What the URL asks for; what cannot be falls back quietly."""
    names = evaluation.model_names
    candidate = request.GET.get("candidate", "")
    metric = request.GET.get("metric", "exact_match")
    chosen = Filter(
        show=request.GET.get("show", "all"),
        candidate=candidate if candidate in names else names[-1],
        metric=metric if metric in _metrics(evaluation) else "exact_match",
    )
    try:
        chosen.of(evaluation)
    except InvalidInput:
        return Filter(candidate=chosen.candidate, metric=chosen.metric)
    return chosen


def _metrics(evaluation: Evaluation) -> list[str]:
    """Names that answers are scored by."""
    return [each.metric for each in intervals.figures(evaluation)]


def _numbers(
    evaluation: Evaluation, chosen: Filter, *, after: int | None, before: int | None
) -> tuple[list[int], bool, bool]:
    """A page of line numbers by their keys, and whether there are more after and before it. A page
    costs what lies between it and its end, however many there are in front."""
    rows = chosen.of(evaluation)
    if before is not None:
        back = rows.filter(line__lt=before).order_by("-line").values_list("line", flat=True)
        found = sorted(back[: LINES_A_PAGE + 1])
        return found[-LINES_A_PAGE:], bool(found), len(found) > LINES_A_PAGE
    if after is not None:
        rows = rows.filter(line__gt=after)
    found = list(rows.values_list("line", flat=True)[: LINES_A_PAGE + 1])
    page = found[:LINES_A_PAGE]
    return page, len(found) > LINES_A_PAGE, after is not None and bool(page)


def _lines(evaluation: Evaluation, numbers: list[int]) -> list[Line]:
    order = {name: place for place, name in enumerate(evaluation.model_names)}
    by_line: dict[int, list[EvaluationAnswer]] = {number: [] for number in numbers}
    for answer in evaluation.answers.filter(line__in=numbers):
        by_line[answer.line].append(answer)
    return [
        Line(
            number=number,
            prompt=answers[0].prompt[:MOST_CHARACTERS],
            expected=answers[0].expected[:MOST_CHARACTERS],
            said=[
                _said(evaluation, each)
                for each in sorted(answers, key=lambda one: order.get(one.model_name, 99))
            ],
        )
        for number, answers in by_line.items()
        if answers
    ]


def _said(evaluation: Evaluation, answer: EvaluationAnswer) -> Said:
    text = (answer.error or answer.answer)[:MOST_CHARACTERS]
    found = [Part("same", text)] if answer.error else differences.parts(answer.expected, text)
    scores: list[tuple[str, str, bool]] = []
    for name, value in sorted(answer.scores.items()):
        if name == "exact_match":
            continue
        scores.append(_score(evaluation, name, value))
    return Said(answer, found, scores, sorted(answer.notes.items()))


def _score(evaluation: Evaluation, name: str, value: Any) -> tuple[str, str, bool]:
    unit = intervals.unit_of(evaluation, name)
    best = {"share": value == 1, "rating": value == 5}[unit]
    return intervals.label_of(name), intervals.amount(value, unit), best


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None
