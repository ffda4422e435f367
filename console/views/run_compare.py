"""Training runs side by side: overlaid curves, and a table of what differs."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from common.errors import InvalidInput
from console import charts, formats, run_results, statuses
from console.charts import Chart, Point, Series
from console.pages import ConsoleRequest, console_page, refuse, show
from training import comparing, curves
from training.comparing import Row, RunCurves
from training.models import TrainingRun

OFFERED = 50
SMOOTHING = {"none": 0.0, "some": 0.6, "strong": 0.9}


@dataclass(frozen=True)
class Compared:
    """One thing of each run, in words."""

    label: str
    is_word: bool  # of ours; else a hyperparameter as it is written
    values: list[str]


@console_page()
def run_compare(request: ConsoleRequest) -> HttpResponse:
    """`?run=` two to eight times, `by=` step, tokens or time, `smooth=` none, some or strong;
    without runs, the choice of them."""
    asked = read_ids(request)
    axis = _one_of(request.GET.get("by", ""), curves.AXES, "step")
    smooth = _one_of(request.GET.get("smooth", ""), SMOOTHING, "some")
    context = {
        "title": _("Compare runs"),
        "lede": _("Two to eight runs: their curves over each other, and what differs."),
        "crumbs": [{"label": _("Training runs"), "url": reverse("console:runs")}],
        "axis": axis,
        "axes": [("step", _("By step")), ("tokens", _("By tokens")), ("time", _("By time"))],
        "smooth": smooth,
        "smoothing": [
            ("none", _("Every step")),
            ("some", _("Smoothed")),
            ("strong", _("Strongly smoothed")),
        ],
        "asked": [str(one) for one in asked],
        "offered": TrainingRun.objects.of(request.organization)[:OFFERED],
    }
    if len(set(asked)) < comparing.LEAST:
        return show(request, "console/runs/compare.html", context)
    try:
        runs = comparing.find_runs(request.organization, asked)
    except InvalidInput as error:
        return refuse(request, error, reverse("console:run_compare"))
    rows = comparing.table(runs)
    made_of = [row for row in rows if row.group != "results"]
    return show(
        request,
        "console/runs/compare.html",
        context
        | {
            "runs": runs,
            "width": len(runs) + 1,
            "differing": [_compared(row) for row in made_of if row.differs],
            "same": [_compared(row) for row in made_of if not row.differs],
            "outcome": [_compared(row) for row in rows if row.group == "results"],
            "evaluated": run_results.table(request.organization, runs),
            "charts": _charts(runs, axis, SMOOTHING[smooth]),
            "archive_url": f"{reverse('console:runs_tensorboard')}?"
            + "&".join(f"run={run.pk}" for run in runs),
        },
    )


def read_ids(request: ConsoleRequest) -> list[UUID]:
    """`?run=`, as often as it is there; what is no id is left out."""
    found = []
    for text in request.GET.getlist("run"):
        try:
            found.append(UUID(text))
        except ValueError:
            continue
    return found


def _charts(runs: list[TrainingRun], axis: str, weight: float) -> list[Chart]:
    drawn = [comparing.run_curves(run, axis=axis) for run in runs]
    x_title = {"step": _("Step"), "tokens": _("Tokens trained on"), "time": _("Hours")}[axis]
    title = _("Training loss, smoothed") if weight else _("Training loss")
    return [
        charts.line_chart(
            title=title,
            x_title=x_title,
            y_title=_("Loss"),
            series=[Series(one.run.name, _loss(one, weight)) for one in drawn],
        ),
        charts.line_chart(
            title=_("Held-out loss"),
            x_title=x_title,
            y_title=_("Loss"),
            series=[Series(one.run.name, one.eval_loss) for one in drawn],
        ),
    ]


def _loss(one: RunCurves, weight: float) -> list[Point]:
    """Means of a long run's stretches are smooth to begin with."""
    return charts.smoothed(one.loss_means, weight=weight) if weight else list(one.loss)


def _compared(row: Row) -> Compared:
    labels = {
        "base_revision": _("Base"),
        "dataset_version": _("Data"),
        "train_split": _("Split to learn from"),
        "eval_split": _("Split to watch"),
        "method": _("Method"),
        "tuning": _("What is trained"),
        "recipe": _("Recipe"),
        "accelerators": _("Accelerators"),
        "accelerator_type": _("Accelerator type"),
        "status": _("Status"),
        "step": _("Steps"),
        "train_loss": _("Training loss"),
        "eval_loss": _("Held-out loss"),
        "tokens_total": _("Tokens trained on"),
        "seconds": _("Took"),
        "result_revision": _("Result"),
    }
    is_word = row.group != "hyperparameters" and row.name in labels
    label = labels[row.name] if is_word else row.name
    return Compared(label, is_word, [_value(row, value) for value in row.values])


def _value(row: Row, value: Any) -> str:
    if value is None or value == "":
        return "–"
    if row.group == "results":
        match row.name:
            case "status":
                return str(statuses.look_of(value).label)
            case "seconds":
                return formats.duration(value)
            case "train_loss" | "eval_loss":
                return formats.number(value, 4)
            case "step" | "tokens_total":
                return formats.number(value)
    return str(value)


def _one_of(asked: str, known: Any, usual: str) -> str:
    return asked if asked in known else usual
