"""Training runs side by side: overlaid curves, and a table of what differs."""

from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from common.errors import InvalidInput
from console import charts
from console.pages import ConsoleRequest, console_page, refuse, show
from training import comparing
from training.models import TrainingRun

OFFERED = 50


@console_page()
def run_compare(request: ConsoleRequest) -> HttpResponse:
    """`?run=` two to eight times, `by=` step, tokens or time; without runs, the choice of them."""
    asked = [one for one in request.GET.getlist("run") if _is_id(one)]
    axis = request.GET.get("by", "")
    axis = axis if axis in comparing.AXES else comparing.AXES[0]
    context = {
        "title": _("Compare runs"),
        "lede": _("Two to eight runs: their curves over each other, and what differs."),
        "crumbs": [{"label": _("Training runs"), "url": reverse("console:runs")}],
        "axis": axis,
        "axes": [("step", _("By step")), ("tokens", _("By tokens")), ("time", _("By time"))],
        "asked": asked,
        "offered": TrainingRun.objects.of(request.organization)[:OFFERED],
    }
    if len(set(asked)) < comparing.LEAST:
        return show(request, "console/runs/compare.html", context)
    try:
        runs = comparing.find_runs(request.organization, [UUID(one) for one in asked])
    except InvalidInput as error:
        return refuse(request, error, reverse("console:run_compare"))
    rows = comparing.table(runs)
    return show(
        request,
        "console/runs/compare.html",
        context
        | {
            "runs": runs,
            "differing": [row for row in rows if row.differs or row.group == "results"],
            "same": [row for row in rows if not row.differs and row.group != "results"],
            "charts": _charts(runs, axis),
        },
    )


def _charts(runs: list[TrainingRun], axis: str) -> list[charts.Chart]:
    drawn = [comparing.curves(run, axis=axis) for run in runs]
    x_title = {"step": _("Step"), "tokens": _("Tokens trained on"), "time": _("Hours")}[axis]
    return [
        charts.line_chart(
            title=title,
            x_title=x_title,
            y_title=_("Loss"),
            series=[charts.Series(one.run.name, points) for one, points in lines],
        )
        for title, lines in (
            (
                _("Training loss, smoothed"),
                [(one, charts.smoothed(one.loss, weight=0.6)) for one in drawn],
            ),
            (_("Held-out loss"), [(one, one.eval_loss) for one in drawn]),
        )
    ]


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
