"""What every page of the console shares: who looks, at which organization, allowed what."""

import functools
import zoneinfo
from collections.abc import Callable
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.forms import BaseForm
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.utils.translation import gettext as _

from accounts import selectors
from accounts.api.views import CHOSEN
from accounts.audit import Actor
from accounts.choices import Capability, Role
from accounts.models import Membership, Organization, User
from common.errors import DomainError, NotFound
from common.texts import shown
from console import navigation

MOVING_SECONDS, STILL_SECONDS = 2, 15

P = ParamSpec("P")


class ConsoleRequest(HttpRequest):
    """A request whose person, organization and rights are known."""

    user: User
    organization: Organization
    granted: frozenset[str]
    actor: Actor
    now: datetime


View = Callable[Concatenate[ConsoleRequest, P], HttpResponseBase]


def console_page(
    needs: str = Capability.VIEW,
) -> Callable[[View[P]], Callable[Concatenate[HttpRequest, P], HttpResponseBase]]:
    """A page for signed-in members who have the capability; others see 403, which looks like 404.

    NotFound from below becomes 404. Times are written in the organization's time zone.
    """

    def decorate(view: View[P]) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
        @functools.wraps(view)
        def inner(request: Any, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            organization = chosen_organization(request)
            if organization is None:
                return render(request, "console/no_organization.html", status=403)
            request.organization = organization
            request.granted = selectors.get_capabilities(request.user, organization)
            request.actor = Actor(
                "user", request.user.get_username(), request.META.get("REMOTE_ADDR", "")
            )
            request.now = timezone.now()
            if needs not in request.granted:
                raise PermissionDenied
            try:
                with timezone.override(zoneinfo.ZoneInfo(organization.time_zone)):
                    return view(request, *args, **kwargs)
            except NotFound as error:
                raise Http404(error.message) from error

        return cast(Callable[Concatenate[HttpRequest, P], HttpResponseBase], login_required(inner))

    return decorate


def chosen_organization(request: HttpRequest) -> Organization | None:
    """The one chosen with the switcher, if it may still be seen; else the person's first."""
    user = cast(User, request.user)
    rows = selectors.list_organizations(user)
    slug = request.session.get(CHOSEN)
    chosen = rows.filter(slug=slug).first() if slug else None
    if chosen is not None:
        return chosen
    own = rows.filter(memberships__user=user).order_by("created_at").first()
    return own or rows.order_by("created_at").first()


def show(
    request: ConsoleRequest, template: str, context: dict[str, Any], *, status: int = 200
) -> HttpResponse:
    """A whole page: the template with the shell around it."""
    shell = {
        "organization": request.organization,
        "organizations": selectors.list_organizations(request.user).order_by("name")[:50],
        "role_label": _role_label(request),
        "can": dict.fromkeys(request.granted, True),
        "nav": navigation.build(request.path, request.granted),
        "now": request.now,
    }
    return render(request, template, shell | context, status=status)


def show_live(
    request: ConsoleRequest, template: str, part: str, context: dict[str, Any], *, moving: bool
) -> HttpResponse:
    """A page with a part that asks for itself again; htmx gets that part alone.

    `template` includes `part`, whose root element carries `{% live %}`.
    """
    context = context | {"part": part, "poll_seconds": MOVING_SECONDS if moving else STILL_SECONDS}
    if request.headers.get("HX-Request"):
        context |= {
            "can": dict.fromkeys(request.granted, True),
            "organization": request.organization,
            "now": request.now,
        }
        response = render(request, part, context)
    else:
        response = show(request, template, context)
    patch_vary_headers(response, ["HX-Request"])
    response["Cache-Control"] = "no-store"
    return response


def done(request: HttpRequest, text: str, to: str) -> HttpResponse:
    """After a change: the next page, with a toast that says what happened."""
    messages.success(request, text)
    return HttpResponseRedirect(to)


def refuse(request: HttpRequest, error: DomainError, to: str) -> HttpResponse:
    """After a refusal without a form: back, with the reason and the remedy."""
    messages.error(request, said(error))
    return HttpResponseRedirect(to)


def add_refusal(form: BaseForm, error: DomainError) -> None:
    """Put a refusal beside the field it speaks of, if the form has it."""
    whole = error.field
    names = (
        whole,
        whole.split(".")[-1],
        whole.split(".")[0],
        whole.removesuffix("_id"),
        whole.removesuffix("_per_replica"),
    )
    form.add_error(next((name for name in names if name in form.fields), None), said(error))


def said(error: DomainError) -> str:
    """The reason and the remedy as one text, in the reader's language."""
    return f"{shown(error.message)} {shown(error.remedy)}".strip()


def _role_label(request: ConsoleRequest) -> str:
    membership = Membership.objects.of(request.organization).filter(user=request.user).first()
    if membership is not None:
        return str(Role(membership.role).label)
    return _("Platform staff")
