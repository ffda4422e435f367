"""Training runs: is it learning, when is it done, was it worth it?"""

from typing import Any
from uuid import UUID

from django.db.models import Q
from django.db.models.functions import Mod
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console import charts, formats, run_costs, tables
from console.downloads import csv_download, text_download
from console.pages import (
    ConsoleRequest,
    console_page,
    done,
    refuse,
    show_live,
)
from training import selectors, services, tensorboard
from training.choices import TERMINAL, RunStatus, Tuning
from training.models import TrainingRun
from training.progress import MEASURED

MOST_METRICS = 1000
SHOWN_SAMPLES = 4


@console_page()
def run_list(request: ConsoleRequest) -> HttpResponse:
    query, status = request.GET.get("q", "").strip(), request.GET.get("status", "")
    rows = TrainingRun.objects.of(request.organization).select_related(
        "base_revision__registered_model", "dataset_version__dataset"
    )
    moving = rows.exclude(status__in=TERMINAL).exists()
    if query:
        rows = rows.filter(name__icontains=query)
    if status in RunStatus.values:
        rows = rows.filter(status=status)
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
        filtered=bool(query or status),
    )
    return show_live(
        request,
        "console/runs/list.html",
        "console/runs/_list.html",
        {
            "title": _("Training runs"),
            "lede": _("Each run makes a revision of a model from a base and a dataset."),
            "actions": "console/runs/_actions.html",
            "table": table,
            "query": query,
            "status_choices": RunStatus.choices,
            "chosen_status": status,
        },
        moving=moving,
    )


@require_POST
@console_page(Capability.DEVELOP)
def run_cancel(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    run = _find(request, run_id)
    to = reverse("console:run", args=[run.pk])
    try:
        services.cancel_training_run(
            organization=request.organization, run_id=run.pk, actor=request.actor, now=request.now
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, _("%(name)s is being stopped.") % {"name": run.name}, to)


@require_POST
@console_page(Capability.DEVELOP)
def run_pause(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    run = _find(request, run_id)
    to = reverse("console:run", args=[run.pk])
    try:
        services.pause_training_run(
            organization=request.organization, run_id=run.pk, actor=request.actor, now=request.now
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, _("%(name)s saves a checkpoint and pauses.") % {"name": run.name}, to)


@require_POST
@console_page(Capability.DEVELOP)
def run_resume(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    run = _find(request, run_id)
    to = reverse("console:run", args=[run.pk])
    try:
        services.resume_training_run(
            organization=request.organization, run_id=run.pk, actor=request.actor, now=request.now
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, _("%(name)s goes on from its last checkpoint.") % {"name": run.name}, to)


@console_page()
def run_detail(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    run = _find(request, run_id)
    return show_live(
        request,
        "console/runs/detail.html",
        "console/runs/_live.html",
        {
            "title": run.name,
            "crumbs": [{"label": _("Training runs"), "url": reverse("console:runs")}],
            "run": run,
            "events": run.events.order_by("-at", "-id")[:30],
            "checkpoints": run.checkpoints.filter(pruned_at__isnull=True)[:5],
            "is_ended": run.status in TERMINAL,
            "may_cancel": run.status not in TERMINAL and run.cancel_requested_at is None,
            "hyperparameters": _settings(run),
            "charts": _charts(run),
            "held_out": run.dataset_version.splits.exclude(name=run.train_split).first(),
            "pace": _pace(run),
            "may_pause": run.status not in TERMINAL
            and run.status != RunStatus.PUBLISHING
            and run.pause_requested_at is None
            and run.cancel_requested_at is None,
            "may_resume": run.pause_requested_at is not None and run.cancel_requested_at is None,
            "cost": run_costs.so_far(run, now=request.now),
            "samples": list(selectors.list_samples(run).order_by("-step")[:SHOWN_SAMPLES]),
        },
        moving=run.status not in TERMINAL,
    )


@console_page()
def run_metrics_csv(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    run = _find(request, run_id)
    columns = [
        "step",
        "at",
        "loss",
        "eval_loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "memory_bytes",
    ]
    rows = (
        [getattr(metric, column) for column in columns] for metric in run.metrics.order_by("step")
    )
    return csv_download(charts.as_csv(columns, rows), f"{run.name}-metrics.csv")


@console_page()
def run_tensorboard(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    run = _find(request, run_id)
    name = tensorboard.file_name(run)
    return HttpResponse(
        b"".join(tensorboard.event_file(run)),
        content_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@console_page()
def run_log(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    run = _find(request, run_id)
    return text_download(run.log_tail, f"{run.name}.log")


def _find(request: ConsoleRequest, run_id: UUID) -> TrainingRun:
    rows = TrainingRun.objects.of(request.organization).select_related(
        "base_revision__registered_model",
        "dataset_version__dataset",
        "result_revision__registered_model",
        "node",
        "allocation",
    )
    return get_object_or_404(rows, pk=run_id)


def _charts(run: TrainingRun) -> list[charts.Chart]:
    metrics = _metrics(run)
    raw = _line(metrics, "loss")
    series = [charts.Series(_("Training loss"), charts.smoothed(raw, weight=0.6))]
    if len(raw) > 20:
        series.insert(0, charts.Series(_("Training loss, each point"), raw, faint=True))
    series.append(charts.Series(_("Held-out loss"), _line(metrics, "eval_loss")))
    rates = [charts.Series(_("Learning rate"), _line(metrics, "learning_rate"))]
    norms = [charts.Series(_("Gradient norm"), _line(metrics, "grad_norm"))]
    speed = [charts.Series(_("Tokens per second"), _line(metrics, "tokens_per_second"))]
    memory = [(x, y / formats.GIB) for x, y in _line(metrics, "memory_bytes")]
    drawn = [
        (_("Loss by step"), _("Loss (nats per token)"), series, False),
        (_("Speed by step"), _("Tokens per second"), speed, True),
        (_("Learning rate by step"), _("Learning rate"), rates, True),
        (_("Gradient norm by step"), _("Gradient norm"), norms, True),
        (_("Memory by step"), _("GiB"), [charts.Series(_("Memory"), memory)], True),
    ]
    if any("reward_margin" in metric["details"] for metric in metrics):
        margins = [
            (float(metric["step"]), metric["details"]["reward_margin"])
            for metric in metrics
            if "reward_margin" in metric["details"]
        ]
        line = [charts.Series(_("Reward margin"), margins)]
        drawn.insert(1, (_("Reward margin by step"), _("Reward margin"), line, False))
    return [
        charts.line_chart(
            title=title,
            x_title=_("Step"),
            y_title=y_title,
            series=lines,
            x_max=float(run.total_steps) if run.total_steps else None,
            y_from_zero=from_zero,
            csv_url=reverse("console:run_metrics", args=[run.pk]),
        )
        for title, y_title, lines, from_zero in drawn
    ]


def _line(metrics: list[dict[str, Any]], name: str) -> list[charts.Point]:
    return [(float(row["step"]), float(row[name])) for row in metrics if row[name] is not None]


def _settings(run: TrainingRun) -> list[tuple[str, object]]:
    """The hyperparameters that had a say."""
    return [
        (name, value)
        for name, value in sorted(run.hyperparameters.items())
        if value is not None and not (run.tuning == Tuning.FULL and name.startswith("lora_"))
    ]


def _metrics(run: TrainingRun) -> list[dict[str, Any]]:
    """By step; of a long run every so many rows."""
    rows = run.metrics.order_by("step")
    every = rows.count() // MOST_METRICS + 1
    if every > 1:
        kept = Q(place=0) | Q(eval_loss__isnull=False)
        rows = rows.annotate(place=Mod("id", every)).filter(kept)
    return list(rows.values("step", "details", "eval_loss", *MEASURED))


def _pace(run: TrainingRun) -> str:
    if run.status in TERMINAL or run.tokens_per_second is None:
        return ""
    if run.seconds_left is None:
        return _("%(rate)s tokens/s") % {"rate": formats.number(run.tokens_per_second)}
    return _("%(rate)s tokens/s, %(left)s left") % {
        "rate": formats.number(run.tokens_per_second),
        "left": formats.duration(run.seconds_left),
    }
