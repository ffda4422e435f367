"""What a person may want of a run that there is: that it stops, rests or goes on."""

from collections.abc import Callable
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console.pages import ConsoleRequest, console_page, done, refuse
from console.views.runs import find
from training import services


@require_POST
@console_page(Capability.DEVELOP)
def run_cancel(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    said = _("%(name)s is being stopped.")
    return _want(request, run_id, services.cancel_training_run, said)


@require_POST
@console_page(Capability.DEVELOP)
def run_pause(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    said = _("%(name)s saves a checkpoint and pauses.")
    return _want(request, run_id, services.pause_training_run, said)


@require_POST
@console_page(Capability.DEVELOP)
def run_resume(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    said = _("%(name)s goes on from its last checkpoint.")
    return _want(request, run_id, services.resume_training_run, said)


def _want(
    request: ConsoleRequest, run_id: UUID, change: Callable[..., object], said: str
) -> HttpResponse:
    """Back to the run's page, which says what is done now, or why it cannot be."""
    run = find(request, run_id)
    to = reverse("console:run", args=[run.pk])
    try:
        change(
            organization=request.organization, run_id=run.pk, actor=request.actor, now=request.now
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, said % {"name": run.name}, to)
