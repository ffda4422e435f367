"""Autoscaling of one deployment: what is wanted, what follows from the load now, what happened."""

from dataclasses import fields
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError, InvalidInput
from console import forms
from console.pages import ConsoleRequest, console_page, done, refuse
from deployments import reconcile, selectors, services
from deployments.models import Autoscaling, Deployment
from deployments.services import autoscaling
from deployments.services.autoscaling import Wanted

HISTORY = 8


def panel(request: ConsoleRequest, deployment: Deployment) -> dict[str, Any]:
    """What components/autoscaling.html shows."""
    row = Autoscaling.objects.filter(deployment=deployment).first()
    if row is not None:
        row.deployment = deployment
    is_on = row is not None and row.enabled
    return {
        "row": row,
        "is_on": is_on,
        "form": forms.AutoscalingForm(initial=_values(row) if row else None),
        "outlook": reconcile.get_outlook(row, now=request.now) if row and is_on else None,
        "events": selectors.list_scaling_events(deployment)[:HISTORY],
    }


@require_POST
@console_page(Capability.DEVELOP)
def autoscaling_set(request: ConsoleRequest, deployment_id: UUID) -> HttpResponse:
    """What the form does not have, the schedule and its time zone, stays as it is."""
    deployment = get_object_or_404(Deployment.objects.of(request.organization), pk=deployment_id)
    to = reverse("console:deployment", args=[deployment.pk])
    form = forms.AutoscalingForm(request.POST)
    if not form.is_valid():
        name, messages = next(iter(form.errors.items()))
        text = f"{form.fields[name].label}: {messages[0]}"
        return refuse(request, InvalidInput(text, field=name), to)
    row = Autoscaling.objects.filter(deployment=deployment).first()
    try:
        services.set_autoscaling(
            organization=request.organization,
            deployment_id=deployment.pk,
            wanted=Wanted(**_values(row) | form.cleaned_data),
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        return refuse(request, error, to)
    is_on = form.cleaned_data["enabled"]
    return done(request, _("Autoscaling is on.") if is_on else _("Autoscaling is off."), to)


def _values(row: Autoscaling | None) -> dict[str, Any]:
    source = row if row is not None else Wanted(schedule=[])
    return {each.name: getattr(source, each.name) for each in fields(autoscaling.Wanted)}
