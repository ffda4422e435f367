"""Changing what a deployment's replicas run: a form whose answer is a rollout."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from django.forms import Form
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.choices import Capability
from common.errors import DomainError
from console import offers
from console.deploy_forms import ChangeForm, RevisionChange
from console.pages import ConsoleRequest, add_refusal, console_page, done, show
from console.views.deployments import find
from deployments import adapters, fitting, selectors, services
from deployments.models import Deployment
from deployments.services import Change
from deployments.variants import Content
from models_registry.models import Revision


@console_page(Capability.DEVELOP)
def deployment_change(request: ConsoleRequest, deployment_id: UUID) -> HttpResponse:
    deployment = find(request, deployment_id)
    to = reverse("console:deployment", args=[deployment.pk])
    rollout = selectors.get_open_rollout(deployment)
    present = Content.of(rollout.to_variant if rollout is not None else deployment)
    form = _form(request, deployment, present)
    only_plan = request.POST.get("only") == "plan"  # asked as the form is filled in
    if request.method == "POST" and not only_plan and form.is_valid():
        try:
            result = services.update_deployment(
                organization=request.organization,
                deployment_id=deployment.pk,
                change=_change(form, present),
                plan=_plan(form),
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            if error.field in {"accelerators_per_replica", "slots_per_replica"}:
                error.field = "count"
            add_refusal(form, error)
        else:
            if result is not None:
                text = _("The change of %(name)s is being rolled out.")
            elif deployment.host_id is not None:
                text = _("The replicas load the other adapter in the place of %(name)s.")
            else:
                text = _("%(name)s runs exactly this already: nothing was changed.")
            return done(request, text % {"name": deployment.name}, to)
    return show(
        request,
        "console/deployments/change.html",
        {
            "title": _("Change what %(name)s runs") % {"name": deployment.name},
            "lede": _(
                "New replicas start beside the old ones and take over step by step; if they answer "
                "worse, the old ones stay."
            )
            if deployment.host_id is None
            else "",
            "crumbs": [
                {"label": _("Deployments"), "url": reverse("console:deployments")},
                {"label": deployment.name, "url": to},
            ],
            "deployment": deployment,
            "rollout": rollout,
            "form": form,
            "back_url": to,
            **_fits(request, form, present),
        },
        status=422 if form.errors and not only_plan else 200,
    )


def _fits(request: ConsoleRequest, form: Form, present: Content) -> dict[str, Any]:
    """What the pools say to one more replica as the form describes it, or as it is served."""
    if not isinstance(form, ChangeForm):
        return {}
    content = present
    if form.is_bound:
        if not form.is_valid():
            return {"plan": None}
        revision_id = UUID(form.cleaned_data["revision"])
        content = form.content(revision_id, others=dict(present.settings))
    revision = Revision.objects.of(request.organization).filter(pk=content.revision_id).first()
    if revision is None:
        return {"plan": None}
    try:
        plan = fitting.plan_serving(
            organization=request.organization,
            revision=revision,
            content=replace(content, pool_name=""),
            replicas=1,
            now=request.now,
        )
    except DomainError:
        return {"plan": None}
    return {"plan": plan, "chosen_pool": content.pool_name}


def _form(request: ConsoleRequest, deployment: Deployment, present: Content) -> Form:
    """Filled with what is served, or is on its way to be."""
    is_adapter = adapters.is_adapter(deployment.revision)
    rows = offers.servable_revisions(request.organization)
    if deployment.host_id is not None:
        rows = [row for row in rows if row.parent_id == deployment.revision.parent_id]
    rows = [row for row in rows if adapters.is_adapter(row) == is_adapter]
    revisions = [(str(row.pk), f"{row} ({row.get_kind_display()})") for row in rows]
    initial: dict[str, Any] = {"revision": str(present.revision_id)}
    if deployment.host_id is not None:
        return RevisionChange(request.POST or None, revisions=revisions, initial=initial)
    whole = present.accelerators_per_replica
    initial |= {
        "engine": present.engine,
        "share": "whole" if whole else "slots",
        "count": whole or present.slots_per_replica,
        "pool_name": present.pool_name,
    }
    initial |= {name: present.settings.get(name) for name in ChangeForm.SETTINGS}
    engines = offers.engines(deployment.revision)
    if present.engine not in dict(engines):
        engines.append((present.engine, offers.engine_name(present.engine)))
    return ChangeForm(
        request.POST or None,
        revisions=revisions,
        engines=engines,
        pools=offers.pools(request.organization),
        initial=initial,
    )


def _change(form: Form, present: Content) -> Change:
    revision_id = UUID(form.cleaned_data["revision"])
    if not isinstance(form, ChangeForm):
        return Change(revision_id=revision_id)
    wanted = form.content(revision_id, others=dict(present.settings))
    return Change(
        revision_id=wanted.revision_id,
        engine=wanted.engine,
        slots_per_replica=wanted.slots_per_replica,
        accelerators_per_replica=wanted.accelerators_per_replica,
        pool_name=wanted.pool_name,
        settings=dict(wanted.settings),
    )


def _plan(form: Form) -> dict[str, Any] | None:
    strategy = form.cleaned_data.get("strategy")
    return {"strategy": strategy} if strategy else None
