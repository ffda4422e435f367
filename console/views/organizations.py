"""Switching the organization that the console shows."""

from typing import cast
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_POST

from accounts import selectors
from accounts.api.views import CHOSEN
from accounts.models import User


@require_POST
@login_required
def switch(request: HttpRequest) -> HttpResponse:
    """Remember the choice in the session; an organization of others is 404."""
    try:
        wanted = UUID(request.POST.get("organization", ""))
    except ValueError as error:
        raise Http404 from error
    found = selectors.list_organizations(cast(User, request.user)).filter(pk=wanted).first()
    if found is None:
        raise Http404
    request.session[CHOSEN] = found.slug
    return HttpResponseRedirect("/")
