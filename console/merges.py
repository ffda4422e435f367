"""What pages show of an adapter's merges into its base."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from console.pages import MOVING_SECONDS
from models_registry import merging
from models_registry.choices import MERGE_OPEN, RevisionKind
from models_registry.models import Revision

SHOWN = 4


class MergeForm(forms.Form):
    name = forms.CharField(
        label=_("Name of the merged model"),
        required=False,
        max_length=96,
    )


def shown(organization: Organization, revision: Revision, *, may_merge: bool) -> dict[str, Any]:
    """For components/merges.html; nothing is shown of what is no adapter."""
    rows = merging.list_merges(organization).filter(adapter=revision)
    merges = list(rows[:SHOWN]) if revision.kind == RevisionKind.ADAPTER else []
    moving = any(merge.status in MERGE_OPEN for merge in merges)
    return {
        "adapter": revision,
        "is_adapter": revision.kind == RevisionKind.ADAPTER,
        "uses_dora": merging.uses_dora(revision),
        "merges": merges,
        "merge_form": MergeForm(initial={"name": merging.default_name(revision)}),
        "may_merge": may_merge and not moving,
        "merge_seconds": MOVING_SECONDS if moving else 0,
    }
