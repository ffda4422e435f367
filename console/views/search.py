"""One search over everything of the organization that has a name."""

from dataclasses import dataclass

from django.http import HttpResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _

from accounts.models import Organization
from console.pages import ConsoleRequest, console_page, show
from deployments.models import Deployment
from models_registry.models import RegisteredModel
from training.models import Dataset, Evaluation, TrainingRun

MOST_OF_A_KIND = 8


@dataclass(frozen=True)
class Hit:
    name: str
    url: str
    note: str | Promise = ""


@console_page()
def search(request: ConsoleRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()[:100]
    groups = _find(request.organization, query) if query else []
    return show(
        request,
        "console/search.html",
        {
            "title": _("Search"),
            "search_query": query,
            "groups": groups,
            "count": sum(len(hits) for _icon, _label, hits in groups),
        },
    )


def _find(organization: Organization, query: str) -> list[tuple[str, str, list[Hit]]]:
    models = RegisteredModel.objects.of(organization).filter(name__icontains=query)
    datasets = Dataset.objects.of(organization).filter(name__icontains=query)
    runs = TrainingRun.objects.of(organization).filter(name__icontains=query)
    evaluations = Evaluation.objects.of(organization).filter(name__icontains=query)
    deployments = Deployment.objects.of(organization).filter(
        name__icontains=query, deleted_at__isnull=True
    )
    most = MOST_OF_A_KIND
    groups = [
        (
            "model",
            _("Models"),
            [Hit(m.name, reverse("console:model", args=[m.pk])) for m in models[:most]],
        ),
        (
            "dataset",
            _("Datasets"),
            [Hit(d.name, reverse("console:dataset", args=[d.pk])) for d in datasets[:most]],
        ),
        (
            "training",
            _("Training runs"),
            [
                Hit(r.name, reverse("console:run", args=[r.pk]), r.get_status_display())
                for r in runs[:most]
            ],
        ),
        (
            "evaluation",
            _("Evaluations"),
            [
                Hit(e.name, reverse("console:evaluation", args=[e.pk]), e.get_status_display())
                for e in evaluations[:most]
            ],
        ),
        (
            "deployment",
            _("Deployments"),
            [
                Hit(d.name, reverse("console:deployment", args=[d.pk]), d.get_status_display())
                for d in deployments[:most]
            ],
        ),
    ]
    return [group for group in groups if group[2]]
