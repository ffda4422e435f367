"""API keys: made, shown once, revoked."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts import services
from accounts.choices import Capability, Scope
from accounts.models import ApiKey
from common.errors import DomainError
from console import forms, tables
from console.pages import ConsoleRequest, add_refusal, console_page, done, refuse, show
from deployments.models import Route


@console_page()
def key_list(request: ConsoleRequest) -> HttpResponse:
    rows = ApiKey.objects.of(request.organization).filter(is_internal=False)
    table = tables.make_table(
        request,
        label=_("API keys"),
        columns=[
            tables.Column(_("Name"), sort="name"),
            tables.Column(_("Status")),
            tables.Column(_("Scopes"), minor=True),
            tables.Column(_("Last used"), sort="last_used_at"),
            tables.Column(_("Expires"), sort="expires_at", minor=True),
            tables.Column(""),
        ],
        rows=rows.select_related("created_by"),
        row_template="console/keys/_row.html",
        default_sort="-created_at",
    )
    for key in table.page:
        key.shown_status = _status(key, request)
    return show(
        request,
        "console/keys/list.html",
        {
            "title": _("API keys"),
            "lede": _("Keys of the organization, for programs. Each is shown once."),
            "actions": "console/keys/_actions.html",
            "table": table,
        },
    )


@console_page(Capability.MANAGE_KEYS)
def key_create(request: ConsoleRequest) -> HttpResponse:
    may_operate = Capability.OPERATE in request.granted
    scopes = [one for one in Scope.choices if may_operate or one[0] != Scope.OPERATE]
    routes = list(Route.objects.of(request.organization).values_list("name", flat=True))
    form = forms.KeyForm(request.POST or None, scopes=scopes, models=routes)
    context = {
        "title": _("Create an API key"),
        "crumbs": [{"label": _("API keys"), "url": reverse("console:keys")}],
        "form": form,
    }
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        try:
            issued = services.issue_api_key(
                organization=request.organization,
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                allowed_models=form.cleaned_data["allowed_models"],
                expires_at=request.now + timedelta(days=int(days)) if days else None,
                created_by=request.user,
                may_operate=may_operate,
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            response = show(
                request,
                "console/keys/created.html",
                context
                | {
                    "title": _("Copy the key now"),
                    "lede": _("It is shown this once. Only a hash of it is kept."),
                    "key": issued.row,
                    "secret": issued.secret,
                    "snippet": _snippet(issued.secret, routes),
                },
            )
            response["Cache-Control"] = "no-store"
            return response
    return show(request, "console/keys/create.html", context, status=422 if form.errors else 200)


@require_POST
@console_page(Capability.MANAGE_KEYS)
def key_revoke(request: ConsoleRequest, key_id: UUID) -> HttpResponse:
    """POST: end a key at once."""
    to = reverse("console:keys")
    try:
        row = services.revoke_api_key(
            organization=request.organization, key_id=key_id, actor=request.actor, now=request.now
        )
    except DomainError as error:
        if error.status_code == 404:
            raise
        return refuse(request, error, to)
    return done(request, _("The key %(name)s no longer works.") % {"name": row.name}, to)


def _status(key: ApiKey, request: ConsoleRequest) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "active" if key.is_live(now=request.now) else "expired"


def _snippet(secret: str, routes: list[str]) -> str:
    model = routes[0] if routes else "<model>"
    return (
        f"curl {settings.FACTORY_BASE_URL}/v1/chat/completions \\\n"
        f'  -H "Authorization: Bearer {secret}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f'  -d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}\''
    )
