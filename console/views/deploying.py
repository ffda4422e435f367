"""The deploy wizard: model, where it fits, name and replicas, summary."""

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.choices import Capability
from common.errors import DomainError
from console import deploying, offers
from console.deploying import Wizard
from console.pages import ConsoleRequest, console_page, done, show
from models_registry.models import Revision

SHOWN_AT_ONCE = 12


@console_page(Capability.DEVELOP)
def deployment_create(request: ConsoleRequest) -> HttpResponse:
    """GET walks from step to step; POST of all answers deploys."""
    is_post = request.method == "POST"
    values = (request.POST if is_post else request.GET).dict()
    if is_post:
        values["step"] = deploying.STEPS[-1]
    wizard = deploying.walk(organization=request.organization, values=values, now=request.now)
    if is_post and wizard.is_complete:
        try:
            deployment = deploying.deploy(wizard, actor=request.actor)
        except DomainError as error:
            deploying.refuse(wizard, error)
        else:
            text = _("%(name)s is being deployed.") % {"name": deployment.name}
            return done(request, text, reverse("console:deployment", args=[deployment.pk]))
    return show(
        request,
        "console/deployments/create.html",
        {
            "title": _("Deploy a model"),
            "lede": _("Each replica is an engine of its own on accelerators of its own."),
            "crumbs": [{"label": _("Deployments"), "url": reverse("console:deployments")}],
            "wizard": wizard,
            "form": wizard.form,
            "part": f"console/deployments/wizard/{wizard.step}.html",
            "engine_name": offers.engine_name(wizard.content.engine) if wizard.content else "",
            "room_asked": deploying.ROOM_ASKED,
            **(_models(request, wizard) if wizard.step == "model" else {}),
        },
        status=422 if _has_errors(wizard) and not request.headers.get("HX-Request") else 200,
    )


def _models(request: ConsoleRequest, wizard: Wizard) -> dict[str, object]:
    """What the first step offers: the newest, those that were searched for, the chosen one."""
    query = request.GET.get("q", "").strip()
    rows = offers.servable_revisions(request.organization)
    chosen = wizard.values.get("revision", "")
    matching = [row for row in rows if query.lower() in str(row).lower()]
    shown = matching[:SHOWN_AT_ONCE]
    shown += [row for row in rows if str(row.pk) == chosen and row not in shown]
    return {
        "query": query,
        "revisions": shown,
        "chosen": chosen or _only(shown),
        "more": max(len(matching) - SHOWN_AT_ONCE, 0),
        "is_filterable": len(rows) > SHOWN_AT_ONCE,
        "has_models": bool(rows),
    }


def _only(rows: list[Revision]) -> str:
    return str(rows[0].pk) if len(rows) == 1 else ""


def _has_errors(wizard: Wizard) -> bool:
    return any(one is not None and one.errors for one in (wizard.form, wizard.host_form))
