"""Datasets: is this data fit to train on?"""

from typing import Any, BinaryIO, cast
from uuid import UUID

from django.db.models import Count, Max, Prefetch, Sum
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.choices import Capability
from common.errors import DomainError
from console import forms, offers, tables
from console.pages import ConsoleRequest, add_refusal, console_page, done, show
from models_registry.models import Revision
from training import services
from training.choices import VersionStatus
from training.models import Dataset, DatasetVersion

ERRORS_SHOWN = 100


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
    versions = dataset.versions.prefetch_related("splits").annotate(
        examples=Sum("splits__examples"), run_count=Count("training_runs", distinct=True)
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


@console_page(Capability.DEVELOP)
def dataset_upload(request: ConsoleRequest, dataset_id: UUID | None = None) -> HttpResponse:
    """A new dataset, or a new version of one. A bad file is refused whole, with its lines."""
    rows = Dataset.objects.of(request.organization)
    dataset = get_object_or_404(rows, pk=dataset_id) if dataset_id else None
    tokenizers = offers.revisions(request.organization, adapters=False)
    form = forms.DatasetForm(
        request.POST or None,
        request.FILES or None,
        tokenizers=tokenizers,
        is_version=dataset is not None,
        initial={"tokenizer": tokenizers[0][0] if tokenizers else ""},
    )
    report: dict[str, Any] | None = None
    if request.method == "POST" and form.is_valid():
        try:
            version = _upload(request, form, dataset)
        except services.DatasetInvalid as error:
            report = cast(dict[str, Any], error.details)
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = (
                _("%(version)s is kept and being checked.")
                if version.status == VersionStatus.CHECKING
                else _("%(version)s is checked and kept.")
            ) % {"version": version}
            return done(request, text, reverse("console:dataset_version", args=[version.pk]))
    return show(
        request,
        "console/datasets/upload.html",
        {
            "title": _("New version of %(name)s") % {"name": dataset.name}
            if dataset
            else _("Upload a dataset"),
            "lede": _("Every line is checked. A bad file is refused whole, with what to mend."),
            "crumbs": [{"label": _("Datasets"), "url": reverse("console:datasets")}],
            "form": form,
            "report": report,
            "errors": report["errors"][:ERRORS_SHOWN] if report else [],
        },
        status=422 if form.errors or report else 200,
    )


def _upload(
    request: ConsoleRequest, form: forms.DatasetForm, dataset: Dataset | None
) -> DatasetVersion:
    if dataset is None:
        name = form.cleaned_data["name"]
        unused = Dataset.objects.of(request.organization).filter(name=name, versions=None)
        dataset = unused.first() or services.create_dataset(
            organization=request.organization,
            name=name,
            description=form.cleaned_data["description"],
            actor=request.actor,
            now=request.now,
        )
    wanted = form.cleaned_data["tokenizer"]
    return services.upload_version(
        organization=request.organization,
        dataset_id=dataset.pk,
        files={name: cast(BinaryIO, upload.file) for name, upload in form.splits().items()},
        file_names={name: upload.name or "" for name, upload in form.splits().items()},
        format=form.cleaned_data["format"],
        mapping=form.mapping(),
        split_plan=form.split_plan(),
        tokenizer_revision=Revision.objects.of(request.organization).filter(pk=wanted).first()
        if wanted
        else None,
        actor=request.actor,
        now=request.now,
    )
