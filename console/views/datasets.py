"""Datasets: is this data fit to train on?"""

from uuid import UUID

from django.db.models import Count, Max, OuterRef, Prefetch, Subquery, Sum
from django.db.models.functions import Coalesce
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _

from console import tables
from console.pages import ConsoleRequest, console_page, show
from training.models import Dataset, DatasetVersion, TrainingRun


@console_page()
def dataset_list(request: ConsoleRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()
    rows = Dataset.objects.of(request.organization)
    if query:
        rows = rows.filter(name__icontains=query)
    newest = DatasetVersion.objects.prefetch_related("splits").order_by("-number")
    rows = rows.annotate(
        latest=Max("versions__number"), changed_at=Max("versions__created_at")
    ).prefetch_related(Prefetch("versions", newest, to_attr="newest_first"))
    table = tables.make_table(
        request,
        label=_("Datasets"),
        columns=[
            tables.Column(_("Name"), sort="name"),
            tables.Column(_("Version"), sort="latest", numeric=True),
            tables.Column(_("Splits and examples")),
            tables.Column(_("Tokens"), numeric=True, minor=True),
            tables.Column(_("Changed"), sort="changed_at"),
        ],
        rows=rows,
        row_template="console/datasets/_row.html",
        default_sort="-changed_at",
        filtered=bool(query),
    )
    return show(
        request,
        "console/datasets/list.html",
        {
            "title": _("Datasets"),
            "lede": _(
                "Conversations to learn from, every line checked, each version kept for good."
            ),
            "actions": "console/datasets/_actions.html",
            "table": table,
            "query": query,
        },
    )


@console_page()
def dataset_detail(request: ConsoleRequest, dataset_id: UUID) -> HttpResponse:
    dataset = get_object_or_404(Dataset.objects.of(request.organization), pk=dataset_id)
    # Runs are counted aside: joined to the splits, each run would count their examples once more.
    runs = TrainingRun.objects.filter(dataset_version=OuterRef("pk")).order_by()
    counted = runs.values("dataset_version").annotate(count=Count("pk")).values("count")
    versions = (
        dataset.versions.prefetch_related("splits")
        .annotate(examples=Sum("splits__examples"), run_count=Coalesce(Subquery(counted), 0))
        .order_by("-number")
    )
    return show(
        request,
        "console/datasets/detail.html",
        {
            "title": dataset.name,
            "lede": dataset.description,
            "crumbs": [{"label": _("Datasets"), "url": reverse("console:datasets")}],
            "actions": "console/datasets/_detail_actions.html",
            "dataset": dataset,
            "versions": versions,
        },
    )
