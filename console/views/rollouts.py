"""Steering a rollout from the deployment's page."""

from collections.abc import Callable
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console.pages import ConsoleRequest, console_page, done, refuse
from deployments import selectors, services
from deployments.models import Rollout


@require_POST
@console_page(Capability.DEVELOP)
def rollout_pause(request: ConsoleRequest, rollout_id: UUID) -> HttpResponse:
    return _steer(request, rollout_id, services.pause_rollout, _("The rollout is paused."))


@require_POST
@console_page(Capability.DEVELOP)
def rollout_resume(request: ConsoleRequest, rollout_id: UUID) -> HttpResponse:
    return _steer(request, rollout_id, services.resume_rollout, _("The rollout goes on."))


@require_POST
@console_page(Capability.DEVELOP)
def rollout_promote(request: ConsoleRequest, rollout_id: UUID) -> HttpResponse:
    text = _("All requests go to the new replicas as soon as they are ready.")
    return _steer(request, rollout_id, services.promote_rollout, text)


@require_POST
@console_page(Capability.DEVELOP)
def rollout_abort(request: ConsoleRequest, rollout_id: UUID) -> HttpResponse:
    text = _("The rollout goes back: the old replicas take over.")
    return _steer(request, rollout_id, services.abort_rollout, text)


def _steer(
    request: ConsoleRequest, rollout_id: UUID, service: Callable[..., Rollout], text: str
) -> HttpResponse:
    rollout = selectors.get_rollout(request.organization, rollout_id)
    to = reverse("console:deployment", args=[rollout.deployment_id])
    try:
        service(
            organization=request.organization,
            rollout_id=rollout_id,
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, text, to)
