"""Uploading a dataset or its next version: columns shown before, refusals at their field after."""

from typing import Any, BinaryIO, cast
from uuid import UUID

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console import offers
from console.dataset_forms import DatasetForm, column_rows, use_choices
from console.dataset_pages import told
from console.pages import ConsoleRequest, add_refusal, console_page, done, show
from models_registry.models import Revision
from training import first_rows, services
from training.choices import VersionStatus
from training.first_rows import FirstRows
from training.models import Dataset, DatasetVersion
from training.source_lines import read_source

EXCERPTS = 100  # of the errors shown, the first ones come with their lines
LINE_CHARACTERS = 200
HEAD_BYTES = 8 * 2**20
FIELDS = {"files": "train", "split_plan": "held_out", "mapping": "columns"}  # refusal -> form


@console_page(Capability.DEVELOP)
def dataset_upload(request: ConsoleRequest, dataset_id: UUID | None = None) -> HttpResponse:
    """A new dataset, or a new version of one. A bad file is refused whole, with its lines."""
    rows = Dataset.objects.of(request.organization)
    dataset = get_object_or_404(rows, pk=dataset_id) if dataset_id else None
    tokenizers = offers.revisions(request.organization, adapters=False)
    form = DatasetForm(
        request.POST or None,
        request.FILES or None,
        tokenizers=tokenizers,
        is_version=dataset is not None,
        initial=_initial(dataset, tokenizers),
    )
    report: dict[str, Any] | None = None
    if request.method == "POST" and form.is_valid():
        try:
            version = _upload(request, form, dataset)
        except services.DatasetInvalid as error:
            report = _told(form, error)
        except DomainError as error:
            error.field = FIELDS.get(error.field, error.field)
            add_refusal(form, error)
        else:
            text = (
                _("%(version)s is kept and being checked.")
                if version.status == VersionStatus.CHECKING
                else _("%(version)s is checked and kept.")
            ) % {"version": version}
            return done(request, text, reverse("console:dataset_version", args=[version.pk]))
    file = request.FILES.get("train")
    return show(
        request,
        "console/datasets/upload.html",
        {
            "title": _("New version of %(name)s") % {"name": dataset.name}
            if dataset
            else _("Upload a dataset"),
            "lede": _("Every line is checked. A bad file is refused whole, with what to mend."),
            "crumbs": _crumbs(dataset),
            "form": form,
            "report": report,
            "errors": _with_lines(report["errors"], request) if report else [],
            "most_bytes": settings.FACTORY_MAX_UPLOAD_BYTES,
            **(_columns(_look(file), form.uses()) if isinstance(file, UploadedFile) else {}),
        },
        status=422 if form.errors or report else 200,
    )


@require_POST
@console_page(Capability.DEVELOP)
def dataset_columns(request: ConsoleRequest) -> HttpResponse:
    """What a file that was chosen is, by its ends alone: a part of the form of its upload."""
    head, tail = (request.FILES.get(name) for name in ("head", "tail"))
    text = request.POST.get("size", "")
    size = int(text) if text.isdecimal() and len(text) < 14 else 0
    if not isinstance(head, UploadedFile) or head.size is None or head.size > HEAD_BYTES:
        return HttpResponse(status=400)
    ends = (head.read(), tail.read(HEAD_BYTES) if isinstance(tail, UploadedFile) else b"")
    size = min(max(size, len(ends[0])), settings.FACTORY_MAX_UPLOAD_BYTES)
    with first_rows.from_ends(*ends, size) as file:
        seen = first_rows.look(file, request.POST.get("name", ""))
    is_cut = size > len(ends[0])
    context = _columns(seen, {}) | {"is_cut": is_cut, "later": size > services.AT_ONCE_BYTES}
    return render(request, "components/column_mapping.html", context)


def _initial(dataset: Dataset | None, tokenizers: list[tuple[str, str]]) -> dict[str, Any]:
    """A next version is counted and held out as the one before it."""
    last = dataset.versions.order_by("-number").first() if dataset else None
    known = {value for value, _label in tokenizers}
    before = str(last.tokenizer_revision_id) if last else ""
    proposed = tokenizers[0][0] if tokenizers else ""
    initial: dict[str, Any] = {"tokenizer": before if before in known else proposed}
    plan = last.split_plan if last else {}
    if plan:
        initial |= {"seed": plan.get("seed"), "group_by": plan.get("group_by", "")}
        held_out = plan.get("held_out", {})
        if list(held_out) == ["heldout"]:
            initial["held_out"] = held_out["heldout"]
    return initial


def _crumbs(dataset: Dataset | None) -> list[dict[str, str]]:
    crumbs = [{"label": _("Datasets"), "url": reverse("console:datasets")}]
    if dataset is not None:
        url = reverse("console:dataset", args=[dataset.pk])
        crumbs.append({"label": dataset.name, "url": url})
    return crumbs


def _columns(seen: FirstRows, uses: dict[str, str]) -> dict[str, Any]:
    return {"seen": seen, "columns": column_rows(seen, uses), "uses": use_choices()}


def _look(file: "UploadedFile[Any]") -> FirstRows:
    seen = first_rows.look(cast(BinaryIO, file.file), file.name or "")
    file.seek(0)
    return seen


def _told(form: DatasetForm, error: services.DatasetInvalid) -> dict[str, Any] | None:
    """The report, unless all that is wrong with the file is what its columns are used as."""
    report = cast(dict[str, Any], error.details)
    if set(report["error_codes"]) == {"mapping_invalid"}:
        first = told(report["errors"][0])
        form.add_error("columns", f"{first['message']} {first['remedy']}")
        return None
    return report


def _with_lines(errors: list[dict[str, Any]], request: ConsoleRequest) -> list[dict[str, Any]]:
    """The errors, the first of them with the beginning of the line that they speak of."""
    texts: dict[tuple[str, int], str] = {}
    wanted = errors[:EXCERPTS]
    for split in {error["split"] for error in wanted}:
        file = request.FILES.get(split)
        if not isinstance(file, UploadedFile):
            continue
        numbers = {error["line"] for error in wanted if error["split"] == split}
        seen = _look(file)
        last = max(numbers)
        for line in read_source(
            cast(BinaryIO, file.file), seen.container, 1, last, characters=LINE_CHARACTERS
        ):
            if line.number in numbers:
                texts[split, line.number] = line.text
    return [
        told(error) | {"text": texts.get((error["split"], error["line"]), "")} for error in errors
    ]


def _upload(request: ConsoleRequest, form: DatasetForm, dataset: Dataset | None) -> DatasetVersion:
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
