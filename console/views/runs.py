"""Training runs: is it learning, when is it done, was it worth it?"""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _

from console import (
    api_jobs,
    charts,
    formats,
    run_again,
    run_charts,
    run_costs,
    run_results,
    run_samples,
    run_timeline,
    snippets,
    tables,
)
from console.downloads import csv_download, text_download
from console.pages import ConsoleRequest, console_page, show_live
from training.choices import TERMINAL, EventLevel, RunStatus, Tuning
from training.models import TrainingRun

FOLLOW_SECONDS, STORY_SECONDS = 2, 4
SHOWN_EVENTS = 30
MEASURES = (
    "step",
    "at",
    "loss",
    "eval_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_bytes",
    "tokens_total",
)


@console_page()
def run_list(request: ConsoleRequest) -> HttpResponse:
    rows: QuerySet[TrainingRun] = TrainingRun.objects.of(request.organization).select_related(
        "base_revision__registered_model", "dataset_version__dataset"
    )
    moving = rows.exclude(status__in=TERMINAL).exists()
    rows, asked = tables.narrow(request, rows, RunStatus.choices)
    table = tables.make_table(
        request,
        label=_("Training runs"),
        columns=[
            tables.Column(_("Name"), sort="name"),
            tables.Column(_("Status"), sort="status"),
            tables.Column(_("Progress")),
            tables.Column(_("Base and data"), minor=True),
            tables.Column(_("Loss"), sort="train_loss", numeric=True, minor=True),
            tables.Column(_("Created"), sort="created_at"),
        ],
        rows=rows,
        row_template="console/runs/_row.html",
        default_sort="-created_at",
        filtered=asked["is_filtered"],
    )
    return show_live(
        request,
        "console/filtered_list.html",
        "console/runs/_list.html",
        {
            "title": _("Training runs"),
            "lede": _("Each run makes a revision of a model from a base and a dataset."),
            "actions": "console/runs/_actions.html",
            "table": table,
            **asked,
        },
        moving=moving,
    )


@console_page()
def run_detail(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    """Its parts ask for themselves again, each by itself: how it stands, charts, log, the story."""
    run = find(request, run_id)
    is_htmx = bool(request.headers.get("HX-Request"))
    timeline = run_timeline.draw(run, now=request.now)
    return show_live(
        request,
        "console/runs/detail.html",
        "console/runs/_live.html",
        {
            "title": run.name,
            "crumbs": [{"label": _("Training runs"), "url": reverse("console:runs")}],
            "run": run,
            "is_ended": run.status in TERMINAL,
            "may_cancel": run.status not in TERMINAL and run.cancel_requested_at is None,
            "may_pause": run.status not in TERMINAL
            and run.status != RunStatus.PUBLISHING
            and run.pause_requested_at is None
            and run.cancel_requested_at is None,
            "may_resume": run.pause_requested_at is not None and run.cancel_requested_at is None,
            "held_out": run.dataset_version.splits.exclude(name=run.train_split).first(),
            "again_url": run_again.address(run),
            "pace": _pace(run),
            "cost": run_costs.so_far(run, now=request.now),
            "timeline": timeline,
            "speed": run.tokens_per_second or timeline.mean_speed(run.tokens_total),
            "speed_note": "" if run.tokens_per_second else _("on average"),
            "results": run_results.table(request.organization, [run]),
            "job": api_jobs.job_of(run),
        }
        | ({} if is_htmx else run_charts.part(run) | _log(run) | _story(run)),
        moving=run.status not in TERMINAL,
    )


@console_page()
def run_charts_part(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    """The charts alone; nothing for htmx where nothing was measured since `?seen=`."""
    run = find(request, run_id)
    is_htmx = bool(request.headers.get("HX-Request"))
    if is_htmx and request.GET.get("seen") == run_charts.seen(run):
        return HttpResponse(status=204)
    return _part(request, run, "charts", _("Charts of %(name)s"), run_charts.part(run))


@console_page()
def run_log(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    """What its trainer says; it follows while the run is not over, and is kept afterwards."""
    run = find(request, run_id)
    return _part(request, run, "log", _("Log of %(name)s"), _log(run))


@console_page()
def run_story(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    """Sample answers, events, and what the run is made of."""
    run = find(request, run_id)
    return _part(request, run, "story", _("Story of %(name)s"), _story(run))


def _part(
    request: ConsoleRequest, run: TrainingRun, name: str, title: str, shown: dict[str, Any]
) -> HttpResponse:
    """A part of the run's page, alone; for whoever comes by its address, as a page."""
    return show_live(
        request,
        "console/runs/part.html",
        f"console/runs/_{name}.html",
        {
            "title": title % {"name": run.name},
            "crumbs": [
                {"label": _("Training runs"), "url": reverse("console:runs")},
                {"label": run.name, "url": reverse("console:run", args=[run.pk])},
            ],
            "run": run,
            **shown,
        },
        moving=run.status not in TERMINAL,
    )


@console_page()
def run_metrics_csv(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    run = find(request, run_id)
    rows = run.metrics.order_by("step").values_list(*MEASURES)
    return csv_download(charts.as_csv(MEASURES, rows.iterator()), f"{run.name}-metrics.csv")


@console_page()
def run_log_text(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    """The end of the log as it is kept, to save."""
    run = find(request, run_id)
    return text_download(run.log_tail, f"{run.name}.log")


def find(request: ConsoleRequest, run_id: UUID) -> TrainingRun:
    """The organization's run, with what it is made of; 404 for any other."""
    rows: QuerySet[TrainingRun] = TrainingRun.objects.of(request.organization).select_related(
        "organization",
        "base_revision__registered_model",
        "init_revision__registered_model",
        "dataset_version__dataset",
        "result_revision__registered_model",
        "node",
        "allocation",
    )
    return get_object_or_404(rows, pk=run_id)


def _log(run: TrainingRun) -> dict[str, Any]:
    return {
        "log_url": reverse("console:run_log", args=[run.pk]),
        "log_seconds": 0 if run.status in TERMINAL else FOLLOW_SECONDS,
    }


def _story(run: TrainingRun) -> dict[str, Any]:
    events = run.events.order_by("-at", "-id")
    return {
        "story_url": reverse("console:run_story", args=[run.pk]),
        "story_seconds": 0 if run.status in TERMINAL else STORY_SECONDS,
        "tensorboard_snippet": snippets.tensorboard(run.name),
        "events": events[:SHOWN_EVENTS],
        "warnings": events.exclude(level=EventLevel.INFO).count(),
        "samples": run_samples.latest(run),
        "checkpoints": run.checkpoints.filter(pruned_at__isnull=True)[:5],
        "hyperparameters": _settings(run),
    }


def _settings(run: TrainingRun) -> list[tuple[str, object]]:
    """The hyperparameters that had a say."""
    return [
        (name, value)
        for name, value in sorted(run.hyperparameters.items())
        if value not in (None, "") and not (run.tuning == Tuning.FULL and name.startswith("lora_"))
    ]


def _pace(run: TrainingRun) -> str:
    if run.status in TERMINAL or run.tokens_per_second is None:
        return ""
    if run.seconds_left is None:
        return _("%(rate)s tokens/s") % {"rate": formats.number(run.tokens_per_second)}
    return _("%(rate)s tokens/s, %(left)s left") % {
        "rate": formats.number(run.tokens_per_second),
        "left": formats.duration(run.seconds_left),
    }
