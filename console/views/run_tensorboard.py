"""Runs as event files that TensorBoard reads: one run's file, or a folder of folders of several."""

from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from common.errors import InvalidInput
from console.downloads import attachment
from console.pages import ConsoleRequest, console_page, refuse
from console.views.run_compare import read_ids
from console.views.runs import find
from training import comparing, selectors, tensorboard


@console_page()
def run_file(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    run = find(request, run_id)
    return attachment(tensorboard.event_file(run), tensorboard.file_name(run))


@console_page()
def runs_archive(request: ConsoleRequest) -> HttpResponse:
    """`?run=` up to eight times, else the newest runs: a folder for each, to be unpacked and shown
    to TensorBoard."""
    try:
        runs = comparing.find_runs(request.organization, read_ids(request), least=0)
    except InvalidInput as error:
        return refuse(request, error, reverse("console:runs"))
    runs = runs or list(selectors.list_runs(request.organization)[: comparing.MOST])
    name = runs[0].name if len(runs) == 1 else _("runs")
    return attachment(tensorboard.archive(runs), f"{name}-tensorboard.zip")
