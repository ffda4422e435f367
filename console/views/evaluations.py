"""Evaluations: base and candidate side by side, answer by answer."""

from collections.abc import Iterator
from uuid import UUID

from django.db.models import Max, QuerySet
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console import intervals, offers, tables
from console.downloads import csv_stream
from console.evaluation_forms import EvaluationForm
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
from training.choices import EVALUATION_TRANSITIONS, EvaluationStatus
from training.models import DatasetSplit, Evaluation

LINES_A_PIECE = 200
UNSETTLED = [status for status, onward in EVALUATION_TRANSITIONS.items() if onward]


@console_page()
def evaluation_list(request: ConsoleRequest) -> HttpResponse:
    found = Evaluation.objects.of(request.organization)
    rows: QuerySet[Evaluation] = found.select_related("split__version__dataset")
    moving = rows.filter(status__in=UNSETTLED).exists()
    rows, asked = tables.narrow(request, rows, EvaluationStatus.choices)
    table = tables.make_table(
        request,
        label=_("Evaluations"),
        columns=[
            tables.Column(_("Name"), sort="name"),
            tables.Column(_("Status"), sort="status"),
            tables.Column(_("By model")),
            tables.Column(_("Split"), minor=True),
            tables.Column(_("Created"), sort="created_at"),
        ],
        rows=rows,
        row_template="console/evaluations/_row.html",
        default_sort="-created_at",
        filtered=asked["is_filtered"],
    )
    for evaluation in table.page:
        evaluation.figure = next(iter(intervals.figures(evaluation)), None)
    return show_live(
        request,
        "console/filtered_list.html",
        "console/evaluations/_list.html",
        {
            "title": _("Evaluations"),
            "lede": _("Served models on the same questions, scored alike."),
            "actions": "console/evaluations/_actions.html",
            "table": table,
            **asked,
        },
        moving=moving,
    )


@console_page(Capability.DEVELOP)
def evaluation_create(request: ConsoleRequest) -> HttpResponse:
    models = offers.served_models(request.organization)
    form = EvaluationForm(
        request.POST or None,
        splits=offers.splits(request.organization),
        models=models,
        initial={name: request.GET.get(name, "") for name in ("split", "baseline")}
        | {"candidate": request.GET.getlist("candidate")},
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
                metrics=form.metrics(),
                num_fewshot=asked["num_fewshot"],
                as_chat=asked["as_chat"],
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
    evaluation = find(request, evaluation_id)
    moving = evaluation.status in UNSETTLED
    return show_live(
        request,
        "console/evaluations/detail.html",
        "console/evaluations/_live.html",
        {
            "title": evaluation.name,
            "crumbs": [{"label": _("Evaluations"), "url": reverse("console:evaluations")}],
            "evaluation": evaluation,
            "version": evaluation.split.version,
            "figures": intervals.figures(evaluation),
            "pictures": intervals.pictures(evaluation),
            "answers_total": evaluation.examples_total * len(evaluation.model_names),
            "is_moving": moving,
            "problems": sorted(evaluation.problems.items()),
        },
        moving=moving,
    )


@require_POST
@console_page(Capability.DEVELOP)
def evaluation_cancel(request: ConsoleRequest, evaluation_id: UUID) -> HttpResponse:
    evaluation = find(request, evaluation_id)
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
def evaluation_csv(request: ConsoleRequest, evaluation_id: UUID) -> StreamingHttpResponse:
    evaluation = find(request, evaluation_id)
    header = ["line", "model", "prompt", "expected", "answer", "is_exact", "error"]
    return csv_stream(header, answer_pages(evaluation), f"{evaluation.name}-answers.csv")


def answer_pages(evaluation: Evaluation) -> Iterator[list[tuple[object, ...]]]:
    """All answers, some lines at a time."""
    last = evaluation.answers.aggregate(last=Max("line"))["last"] or 0
    rows = evaluation.answers.order_by("line", "model_name").values_list(
        "line", "model_name", "prompt", "expected", "answer", "is_exact", "error"
    )
    for first in range(0, last + 1, LINES_A_PIECE):
        yield list(rows.filter(line__gte=first, line__lt=first + LINES_A_PIECE))


def find(request: ConsoleRequest, evaluation_id: UUID) -> Evaluation:
    found = Evaluation.objects.of(request.organization)
    rows: QuerySet[Evaluation] = found.select_related("split__version__dataset")
    return get_object_or_404(rows, pk=evaluation_id)
