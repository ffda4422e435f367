"""An adapter's merges into its base: asked for on its page, followed there."""

from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console import merges
from console.pages import ConsoleRequest, console_page, done, refuse, show_live
from models_registry import merging
from models_registry.models import Revision


@console_page()
def merges_part(request: ConsoleRequest, revision_id: UUID) -> HttpResponse:
    """An adapter's merges, for the parts of other pages that follow them."""
    rows = Revision.objects.of(request.organization).select_related("registered_model")
    revision = get_object_or_404(rows, pk=revision_id)
    may_merge = Capability.DEVELOP in request.granted
    seen = merges.shown(request.organization, revision, may_merge=may_merge)
    context = {"title": _("Merges of %(name)s") % {"name": revision}} | seen
    return show_live(
        request,
        "console/live_page.html",
        "components/merges.html",
        context,
        moving=bool(seen["merge_seconds"]),
    )


@require_POST
@console_page(Capability.DEVELOP)
def merge_revision(request: ConsoleRequest, revision_id: UUID) -> HttpResponse:
    """POST: have the adapter merged into its base."""
    get_object_or_404(Revision.objects.of(request.organization), pk=revision_id)
    to = reverse("console:revision", args=[revision_id])
    try:
        merge = merging.request_merge(
            organization=request.organization,
            revision_id=revision_id,
            name=request.POST.get("name", "").strip()[:100],
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, _("The merge into %(name)s is under way.") % {"name": merge.name}, to)
