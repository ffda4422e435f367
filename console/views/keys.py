"""API keys: made, shown once, changed, given new secrets, revoked."""

from typing import Any
from uuid import UUID

from django.forms import BaseForm
from django.http import HttpResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts import keys, services
from accounts.choices import Capability, Scope
from accounts.models import ApiKey
from common.errors import DomainError, NotFound
from console import key_forms, snippets, tables
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
        key.shows_previous = key.has_previous(now=request.now)
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
    """A form; after it the secret, shown once."""
    may_operate = Capability.OPERATE in request.granted
    routes = _route_names(request)
    form = key_forms.KeyForm(request.POST or None, scopes=_scopes(request), models=routes)
    if request.method == "POST" and form.is_valid():
        try:
            issued = services.issue_api_key(
                organization=request.organization,
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                allowed_models=form.cleaned_data["allowed_models"],
                allowed_networks=form.cleaned_data["allowed_networks"],
                expires_at=form.expires_at(request.now),
                created_by=request.user,
                may_operate=may_operate,
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            return _show_secret(request, issued)
    context = _context(_("Create an API key"), form) | {"label": _("Create key")}
    return show(request, "console/keys/form.html", context, status=422 if form.errors else 200)


@console_page(Capability.MANAGE_KEYS)
def key_change(request: ConsoleRequest, key_id: UUID) -> HttpResponse:
    """What a key may do, from where, until when."""
    key = _key(request, key_id)
    form = key_forms.KeyChangeForm(
        request.POST or None, key=key, scopes=_scopes(request), models=_route_names(request)
    )
    if request.method == "POST" and form.is_valid():
        try:
            row = keys.change_api_key(
                organization=request.organization,
                key_id=key_id,
                changes=form.changes(request.now),
                may_operate=Capability.OPERATE in request.granted,
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = _("The key %(name)s is changed. Gateways follow within a second.")
            return done(request, text % {"name": row.name}, reverse("console:keys"))
    title = _("Change %(name)s") % {"name": key.name}
    context = _context(title, form) | {
        "label": _("Save"),
        "key": key,
        "is_live": key.is_live(now=request.now),
        "has_previous": key.has_previous(now=request.now),
    }
    return show(request, "console/keys/form.html", context, status=422 if form.errors else 200)


@console_page(Capability.MANAGE_KEYS)
def key_rotate(request: ConsoleRequest, key_id: UUID) -> HttpResponse:
    """A new secret for a key; the present one works for a while."""
    key = _key(request, key_id)
    form = key_forms.RotateForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            issued = keys.rotate_api_key(
                organization=request.organization,
                key_id=key_id,
                overlap=form.overlap(),
                may_operate=Capability.OPERATE in request.granted,
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            return _show_secret(request, issued)
    context = _context(_("New secret for %(name)s") % {"name": key.name}, form) | {
        "lede": _("The key keeps its name, rights, limits and usage; only its secret is new."),
        "label": _("Make a new secret"),
    }
    return show(request, "console/keys/form.html", context, status=422 if form.errors else 200)


@require_POST
@console_page(Capability.MANAGE_KEYS)
def key_end_previous(request: ConsoleRequest, key_id: UUID) -> HttpResponse:
    """POST: end the secret before the present one."""
    row = keys.end_previous_secret(
        organization=request.organization, key_id=key_id, actor=request.actor, now=request.now
    )
    text = _("The previous secret of %(name)s no longer works.") % {"name": row.name}
    return done(request, text, reverse("console:keys"))


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


def _key(request: ConsoleRequest, key_id: UUID) -> ApiKey:
    rows = ApiKey.objects.of(request.organization).filter(is_internal=False)
    row = rows.filter(pk=key_id).first()
    if row is None:
        raise NotFound("No such key.")
    return row


def _scopes(request: ConsoleRequest) -> list[tuple[str, str | Promise]]:
    may_operate = Capability.OPERATE in request.granted
    return [one for one in Scope.choices if may_operate or one[0] != Scope.OPERATE]


def _route_names(request: ConsoleRequest) -> list[str]:
    return list(Route.objects.of(request.organization).values_list("name", flat=True))


def _context(title: str, form: BaseForm) -> dict[str, Any]:
    crumbs = [{"label": _("API keys"), "url": reverse("console:keys")}]
    return {"title": title, "crumbs": crumbs, "form": form}


def _show_secret(request: ConsoleRequest, issued: services.IssuedKey) -> HttpResponse:
    if Scope.INFERENCE in issued.row.scopes:
        named = issued.row.allowed_models or _route_names(request)
        programs = snippets.with_secret(issued.secret, named[0] if named else "<model>")
    else:
        programs = snippets.rest_with_secret(issued.secret)
    response = show(
        request,
        "console/keys/created.html",
        {
            "title": _("Copy the key now"),
            "crumbs": [{"label": _("API keys"), "url": reverse("console:keys")}],
            "lede": _("It is shown this once. Only a hash of it is kept."),
            "key": issued.row,
            "secret": issued.secret,
            "snippets": programs,
        },
    )
    response["Cache-Control"] = "no-store"
    return response
