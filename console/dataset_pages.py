"""What the pages of a dataset version share: finding it, and the way back from it."""

from typing import Any
from uuid import UUID

from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _

from common import texts
from console.pages import ConsoleRequest
from training.models import Dataset, DatasetVersion


def find_version(request: ConsoleRequest, version_id: UUID) -> DatasetVersion:
    """A version of the organization, with dataset and splits; 404 for others."""
    rows = DatasetVersion.objects.filter(dataset__in=Dataset.objects.of(request.organization))
    return get_object_or_404(
        rows.select_related("dataset").prefetch_related("splits"), pk=version_id
    )


def title_of(version: DatasetVersion) -> str:
    return _("%(name)s, version %(number)s") % {
        "name": version.dataset.name,
        "number": version.number,
    }


def crumbs_of(version: DatasetVersion) -> list[dict[str, str]]:
    return [
        {"label": _("Datasets"), "url": reverse("console:datasets")},
        {
            "label": version.dataset.name,
            "url": reverse("console:dataset", args=[version.dataset_id]),
        },
        {
            "label": _("Version %(number)s") % {"number": version.number},
            "url": reverse("console:dataset_version", args=[version.pk]),
        },
    ]


def told(error: dict[str, Any]) -> dict[str, Any]:
    """An error of a report with its sentences in the reader's language."""
    return error | {name: texts.shown_from(error, name) for name in ("message", "remedy")}


def refusal_of(version: DatasetVersion) -> str:
    """Why a version was refused: by its first error, or by what kept the check from its end."""
    errors = version.report.get("errors")
    said = told(errors[0] if errors else version.report.get("refused", {}))
    if not said["message"]:
        return texts.shown(version.message)
    if errors:
        said["message"] = _("%(split)s line %(line)s: %(message)s") % said
    return f"{said['message']} {said['remedy']}".strip()
