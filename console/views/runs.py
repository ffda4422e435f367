"""Training runs: is it learning, when is it done, was it worth it?"""

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
from console import charts, formats, forms, offers, tables
from console.downloads import csv_download, text_download
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
from training.choices import TERMINAL, RunStatus, Tuning
from training.models import TrainingRun

MOST_METRICS = 1000


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


@console_page(Capability.DEVELOP)
def run_create(request: ConsoleRequest) -> HttpResponse:
    form = forms.RunForm(
        request.POST or None,
        revisions=offers.revisions(request.organization, adapters=False),
        versions=offers.dataset_versions(request.organization),
        pools=offers.pools(request.organization),
        initial={
            "base_revision": request.GET.get("base", ""),
            "dataset_version": request.GET.get("data", ""),
        },
    )
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        try:
            run = services.create_training_run(
                organization=request.organization,
                name=asked["name"],
                base_revision_id=UUID(asked["base_revision"]),
                dataset_version_id=UUID(asked["dataset_version"]),
                train_split=asked["train_split"],
                eval_split=asked["eval_split"],
                output_name=asked["output_name"],
                tuning=asked["tuning"],
                hyperparameters=form.hyperparameters(),
                accelerators=asked["accelerators"],
                pool_name=asked["pool_name"],
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = _("%(name)s starts as soon as accelerators are free.") % {"name": run.name}
            return done(request, text, reverse("console:run", args=[run.pk]))
    return show(
        request,
        "console/runs/create.html",
        {
            "title": _("New training run"),
            "lede": _("It is placed as soon as accelerators are free, and goes on if you leave."),
            "crumbs": [{"label": _("Training runs"), "url": reverse("console:runs")}],
            "form": form,
        },
        status=422 if form.errors else 200,
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
    raw = [(float(step), loss) for step, loss, _eval, _speed in metrics if loss is not None]
    held_out = [(float(step), loss) for step, _loss, loss, _speed in metrics if loss is not None]
    speed = [(float(step), rate) for step, _loss, _eval, rate in metrics if rate is not None]
    csv_url = reverse("console:run_metrics", args=[run.pk])
    series = [charts.Series(_("Training loss"), charts.smoothed(raw, weight=0.6))]
    if len(raw) > 20:
        series.insert(0, charts.Series(_("Training loss, each point"), raw, faint=True))
    series.append(charts.Series(_("Held-out loss"), held_out))
    total = float(run.total_steps) if run.total_steps else None
    return [
        charts.line_chart(
            title=_("Loss by step"),
            x_title=_("Step"),
            y_title=_("Loss (nats per token)"),
            series=series,
            x_max=total,
            csv_url=csv_url,
        ),
        charts.line_chart(
            title=_("Speed by step"),
            x_title=_("Step"),
            y_title=_("Tokens per second"),
            series=[charts.Series(_("Tokens per second"), speed)],
            x_max=total,
            y_from_zero=True,
            csv_url=csv_url,
        ),
    ]


def _settings(run: TrainingRun) -> list[tuple[str, object]]:
    """The hyperparameters that had a say."""
    return [
        (name, value)
        for name, value in sorted(run.hyperparameters.items())
        if value is not None and not (run.tuning == Tuning.FULL and name.startswith("lora_"))
    ]


def _metrics(run: TrainingRun) -> list[tuple[int, float | None, float | None, float | None]]:
    """Step, loss, held-out loss and speed; of a long run every so many rows."""
    rows = run.metrics.order_by("step")
    every = rows.count() // MOST_METRICS + 1
    if every > 1:
        kept = Q(place=0) | Q(eval_loss__isnull=False)
        rows = rows.annotate(place=Mod("id", every)).filter(kept)
    return list(rows.values_list("step", "loss", "eval_loss", "tokens_per_second"))


def _pace(run: TrainingRun) -> str:
    if run.status in TERMINAL or run.tokens_per_second is None:
        return ""
    if run.seconds_left is None:
        return _("%(rate)s tokens/s") % {"rate": formats.number(run.tokens_per_second)}
    return _("%(rate)s tokens/s, %(left)s left") % {
        "rate": formats.number(run.tokens_per_second),
        "left": formats.duration(run.seconds_left),
    }
