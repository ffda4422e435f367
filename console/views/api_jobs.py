"""Files and fine-tuning jobs that clients made over OpenAI's API: what became of them."""

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from console import api_jobs, snippets, tables
from console.pages import ConsoleRequest, console_page, show_live
from openai_api import names, planning, selectors, timeline
from openai_api.choices import JOB_OVER
from openai_api.models import FineTuningJob

SHOWN_EVENTS = 30
SHOWN_FILES = 50


@console_page()
def api_job_list(request: ConsoleRequest) -> HttpResponse:
    rows = FineTuningJob.objects.of(request.organization).select_related("run", "base_revision")
    table = tables.make_table(
        request,
        label=_("Fine-tuning jobs"),
        columns=[
            tables.Column(_("Model it makes"), sort="fine_tuned_model"),
            tables.Column(_("Status")),
            tables.Column(_("Training run")),
            tables.Column(_("Base"), sort="model_name", minor=True),
            tables.Column(_("Created"), sort="created_at"),
        ],
        rows=rows,
        row_template="console/api_jobs/_row.html",
        default_sort="-created_at",
    )
    for row in table.page:
        row.shown = api_jobs.shown(row)
    files = selectors.list_files(request.organization, now=request.now)
    return show_live(
        request,
        "console/live_page.html",
        "console/api_jobs/_list.html",
        {
            "title": _("Fine-tuning API"),
            "lede": _("What programs made through /v1/files and /v1/fine_tuning/jobs."),
            "table": table,
            "files": api_jobs.files(list(files.order_by("-created_at")[:SHOWN_FILES])),
            "files_total": files.count(),
            "snippet": snippets.fine_tune(),
        },
        moving=rows.exclude(status__in=JOB_OVER).exists(),
    )


@console_page()
def api_job_detail(request: ConsoleRequest, job_id: str) -> HttpResponse:
    """By its public id, as clients name it."""
    row = selectors.get_job(request.organization, names.read_id(names.JOB, job_id))
    told, _more = timeline.list_told(row, limit=SHOWN_EVENTS)
    return show_live(
        request,
        "console/live_page.html",
        "console/api_jobs/_live.html",
        {
            "title": row.fine_tuned_model,
            "crumbs": [{"label": _("Fine-tuning API"), "url": reverse("console:api_jobs")}],
            "job": api_jobs.shown(row),
            "files": api_jobs.files(
                [one for one in (row.training_file, row.validation_file, row.result_file) if one]
            ),
            "hyperparameters": planning.shown_hyperparameters(row).items(),
            "snapshots": selectors.list_snapshots(row),
            "events": told,
            "snippet": snippets.chat(row.fine_tuned_model),
        },
        moving=row.status not in JOB_OVER,
    )
