"""An adapter's merges, on whichever page shows the adapter."""

from typing import Any

from django.template import Library
from django.template.context import Context

from console import merges
from models_registry.models import Revision

register = Library()


@register.inclusion_tag("components/merges.html", takes_context=True)
def merges_of(context: Context, revision: Revision) -> dict[str, Any]:
    """The merges of a revision that is an adapter, and the way to another; else nothing."""
    may_merge = bool((context.get("can") or {}).get("develop"))
    return merges.shown(context["request"].organization, revision, may_merge=may_merge)
