"""Evaluations: base and candidate side by side, answer by answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console import charts, forms, offers, tables
from console.downloads import csv_download
from console.pages import (
    ConsoleRequest,
    add_refusal,
    console_page,
    done,
    refuse,
    show,
    show_live,
)
from training import services
from training.choices import EVALUATION_TRANSITIONS
from training.models import DatasetSplit, Evaluation, EvaluationAnswer

UNSETTLED = [status for status, onward in EVALUATION_TRANSITIONS.items() if onward]
LINES_A_PAGE = 10


@dataclass(frozen=True)
class Line:
    """One line of the split, and what each model answered."""

    number: int
    prompt: str
    expected: str
    answers: list[EvaluationAnswer]


@dataclass(frozen=True)
class Figure:
    """One measure, model by model, in the order of the evaluation."""

    label: str
    shares: list[float | None]
    better: bool  # the last model beats the first


@console_page()
def evaluation_list(request: ConsoleRequest) -> HttpResponse:
    rows = Evaluation.objects.of(request.organization).select_related("split__version__dataset")
    moving = rows.filter(status__in=UNSETTLED).exists()
    table = tables.make_table(
        request,
        label=_("Evaluations"),
        columns=[
            tables.Column(_("Name"), sort="name"),
            tables.Column(_("Status"), sort="status"),
            tables.Column(_("Exact match, by model")),
            tables.Column(_("Split"), minor=True),
            tables.Column(_("Created"), sort="created_at"),
        ],
        rows=rows,
        row_template="console/evaluations/_row.html",
        default_sort="-created_at",
    )
    for evaluation in table.page:
        evaluation.scores = [
            (name, evaluation.results.get(name, {}).get("exact_match"))
            for name in evaluation.model_names
        ]
    return show_live(
        request,
        "console/evaluations/list.html",
        "console/evaluations/_list.html",
        {
            "title": _("Evaluations"),
            "lede": _("Served models on the same questions, scored alike."),
            "actions": "console/evaluations/_actions.html",
            "table": table,
        },
        moving=moving,
    )


@console_page(Capability.DEVELOP)
def evaluation_create(request: ConsoleRequest) -> HttpResponse:
    models = offers.served_models(request.organization)
    form = forms.EvaluationForm(
        request.POST or None,
        splits=offers.splits(request.organization),
        models=models,
        initial={name: request.GET.get(name, "") for name in ("split", "baseline", "candidate")},
    )
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        split = DatasetSplit.objects.get(pk=asked["split"])  # one of those the form offered
        try:
            evaluation = services.create_evaluation(
                organization=request.organization,
                name=asked["name"],
                dataset_version_id=split.version_id,
                split=split.name,
                model_names=form.model_names(),
                limit=asked["limit"],
                max_tokens=asked["max_tokens"],
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = _("%(name)s has begun.") % {"name": evaluation.name}
            return done(request, text, reverse("console:evaluation", args=[evaluation.pk]))
    return show(
        request,
        "console/evaluations/create.html",
        {
            "title": _("New evaluation"),
            "lede": _("The same questions to each model, through the path your users take."),
            "crumbs": [{"label": _("Evaluations"), "url": reverse("console:evaluations")}],
            "form": form,
        },
        status=422 if form.errors else 200,
    )


@console_page()
def evaluation_detail(request: ConsoleRequest, evaluation_id: UUID) -> HttpResponse:
    evaluation = _find(request, evaluation_id)
    wanted = request.GET.get("show", "all")
    page = Paginator(_line_numbers(evaluation, wanted), LINES_A_PAGE).get_page(
        request.GET.get("page")
    )
    return show_live(
        request,
        "console/evaluations/detail.html",
        "console/evaluations/_live.html",
        {
            "title": evaluation.name,
            "crumbs": [{"label": _("Evaluations"), "url": reverse("console:evaluations")}],
            "evaluation": evaluation,
            "version": evaluation.split.version,
            "figures": _figures(evaluation),
            "answers_total": evaluation.examples_total * len(evaluation.model_names),
            "is_moving": evaluation.status in UNSETTLED,
            "lines": _lines(evaluation, list(page)),
            "page": page,
            "shown": wanted,
            "filters": [
                ("all", _("All answers")),
                ("differ", _("Where they differ")),
                ("wrong", _("Where the last is wrong")),
            ],
        },
        moving=evaluation.status in UNSETTLED,
    )


@require_POST
@console_page(Capability.DEVELOP)
def evaluation_cancel(request: ConsoleRequest, evaluation_id: UUID) -> HttpResponse:
    evaluation = _find(request, evaluation_id)
    to = reverse("console:evaluation", args=[evaluation.pk])
    try:
        services.cancel_evaluation(
            organization=request.organization,
            evaluation_id=evaluation.pk,
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, _("%(name)s is being stopped.") % {"name": evaluation.name}, to)


@console_page()
def evaluation_csv(request: ConsoleRequest, evaluation_id: UUID) -> HttpResponse:
    evaluation = _find(request, evaluation_id)
    rows = evaluation.answers.order_by("line", "model_name").values_list(
        "line", "model_name", "prompt", "expected", "answer", "is_exact", "error"
    )
    header = ["line", "model", "prompt", "expected", "answer", "is_exact", "error"]
    return csv_download(charts.as_csv(header, rows), f"{evaluation.name}-answers.csv")


def _find(request: ConsoleRequest, evaluation_id: UUID) -> Evaluation:
    rows = Evaluation.objects.of(request.organization).select_related("split__version__dataset")
    return get_object_or_404(rows, pk=evaluation_id)


def _figures(evaluation: Evaluation) -> list[Figure]:
    results = [evaluation.results.get(name, {}) for name in evaluation.model_names]
    if not any(results):
        return []
    figures = [
        _figure(_("Exact match"), [result.get("exact_match") for result in results]),
        _figure(_("Valid JSON"), [result.get("valid_json") for result in results]),
    ]
    fields = sorted({name for result in results for name in result.get("fields", {})})
    figures += [
        _figure(
            _("Field %(name)s") % {"name": name},
            [result.get("fields", {}).get(name) for result in results],
        )
        for name in fields
    ]
    return [figure for figure in figures if any(share is not None for share in figure.shares)]


def _figure(label: str, shares: list[float | None]) -> Figure:
    first, last = shares[0], shares[-1]
    better = first is not None and last is not None and last > first
    return Figure(label=label, shares=shares, better=better)


def _line_numbers(evaluation: Evaluation, wanted: str) -> Sequence[int] | QuerySet[Any, int]:
    answers = evaluation.answers.order_by("line")
    if wanted == "wrong" and evaluation.model_names:
        answers = answers.filter(model_name=evaluation.model_names[-1], is_exact=False)
    if wanted == "differ":
        right = set(answers.filter(is_exact=True).values_list("line", flat=True))
        wrong = set(answers.filter(is_exact=False).values_list("line", flat=True))
        return sorted(right & wrong)
    return answers.values_list("line", flat=True).distinct()


def _lines(evaluation: Evaluation, numbers: list[int]) -> list[Line]:
    order = {name: place for place, name in enumerate(evaluation.model_names)}
    by_line: dict[int, list[EvaluationAnswer]] = {number: [] for number in numbers}
    for answer in evaluation.answers.filter(line__in=numbers):
        by_line[answer.line].append(answer)
    return [
        Line(
            number=number,
            prompt=answers[0].prompt,
            expected=answers[0].expected,
            answers=sorted(answers, key=lambda one: order.get(one.model_name, 99)),
        )
        for number, answers in by_line.items()
        if answers
    ]
