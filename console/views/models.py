"""Models: what the organization has, where it comes from, how good it is."""

from uuid import UUID

from django.conf import settings
from django.db.models import Count, Max, Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console import forms, lineage, storage_text, tables
from console.pages import ConsoleRequest, add_refusal, console_page, done, refuse, show, show_live
from console.views import gates
from models_registry import promotion, selectors, services
from models_registry.choices import IMPORT_TRANSITIONS
from models_registry.models import EvaluationResult, RegisteredModel, Revision, RevisionImport

UNSETTLED = [status for status, onward in IMPORT_TRANSITIONS.items() if onward]


@console_page()
def model_list(request: ConsoleRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()
    rows = RegisteredModel.objects.of(request.organization).select_related("organization")
    if query:
        rows = rows.filter(Q(name__icontains=query) | Q(description__icontains=query))
    rows = rows.annotate(
        latest=Max("revisions__number"),
        changed_at=Max("revisions__created_at"),
        parameters=Max("revisions__parameter_count"),
        revision_count=Count("revisions"),
    ).prefetch_related("aliases__revision")
    table = tables.make_table(
        request,
        label=_("Models"),
        columns=[
            tables.Column(_("Name"), sort="name"),
            tables.Column(_("Parameters"), sort="parameters", numeric=True),
            tables.Column(_("Revisions"), sort="revision_count", numeric=True, minor=True),
            tables.Column(_("Aliases"), minor=True),
            tables.Column(_("Changed"), sort="changed_at"),
        ],
        rows=rows,
        row_template="console/models/_row.html",
        default_sort="-changed_at",
        filtered=bool(query),
    )
    imports = RevisionImport.objects.of(request.organization).exclude(status="succeeded")[:5]
    return show_live(
        request,
        "console/models/list.html",
        "console/models/_list.html",
        {
            "title": _("Models"),
            "lede": _("What you have, where it comes from and how good it is."),
            "table": table,
            "imports": imports,
            "query": query,
        },
        moving=any(one.status in UNSETTLED for one in imports),
    )


@console_page()
def model_detail(request: ConsoleRequest, model_id: UUID) -> HttpResponse:
    rows = RegisteredModel.objects.of(request.organization).select_related("organization")
    model = get_object_or_404(rows, pk=model_id)
    results = selectors.list_results(request.organization)
    revisions = model.revisions.prefetch_related("aliases", results)
    latest = revisions.first()
    return show(
        request,
        "console/models/detail.html",
        {
            "title": model.name,
            "lede": model.description,
            "crumbs": [{"label": _("Models"), "url": reverse("console:models")}],
            "model": model,
            "revisions": revisions,
            "latest": latest,
            "card": storage_text.read_card(latest) if latest else "",
            "stages": lineage.of_revision(latest, organization=request.organization)
            if latest
            else [],
            "is_own": model.organization_id == request.organization.pk,
            "pull": _pull_snippet(str(model)),
            "gates": gates.shown(model),
        },
    )


@console_page()
def revision_detail(request: ConsoleRequest, revision_id: UUID) -> HttpResponse:
    rows = Revision.objects.of(request.organization).select_related(
        "registered_model__organization", "parent__registered_model"
    )
    revision = get_object_or_404(rows, pk=revision_id)
    model = revision.registered_model
    return show(
        request,
        "console/models/revision.html",
        {
            "title": f"{model.name} r{revision.number}",
            "lede": revision.get_kind_display(),
            "crumbs": [
                {"label": _("Models"), "url": reverse("console:models")},
                {"label": model.name, "url": reverse("console:model", args=[model.pk])},
            ],
            "revision": revision,
            "model": model,
            "files": revision.artifacts.select_related("blob"),
            "results": EvaluationResult.objects.of(request.organization).filter(revision=revision),
            "aliases": revision.aliases.all(),
            "stages": lineage.of_revision(revision, organization=request.organization),
            "is_own": model.organization_id == request.organization.pk,
            "alias_form": forms.AliasForm(),
            "may_override": Capability.OPERATE in request.granted and model.gates.exists(),
        },
    )


@require_POST
@console_page(Capability.DEVELOP)
def move_alias(request: ConsoleRequest, revision_id: UUID) -> HttpResponse:
    """POST: point an alias at this revision."""
    revision = get_object_or_404(Revision.objects.of(request.organization), pk=revision_id)
    to = reverse("console:revision", args=[revision.pk])
    form = forms.AliasForm(request.POST)
    if not form.is_valid():
        return done(request, _("Nothing changed: an alias needs a name."), to)
    try:
        alias = promotion.move_alias(
            organization=request.organization,
            model_id=revision.registered_model_id,
            alias=form.cleaned_data["alias"],
            revision_id=revision.pk,
            override_reason=form.cleaned_data["override_reason"],
            may_override=Capability.OPERATE in request.granted,
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(
        request,
        _("%(alias)s now stands for revision %(number)s.")
        % {"alias": alias.name, "number": revision.number},
        to,
    )


@console_page(Capability.DEVELOP)
def model_import(request: ConsoleRequest) -> HttpResponse:
    form = forms.ImportForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            services.request_import(
                organization=request.organization,
                actor=request.actor,
                now=request.now,
                **form.cleaned_data,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            return done(
                request,
                _("The import of %(name)s has begun.") % {"name": form.cleaned_data["name"]},
                reverse("console:models"),
            )
    return show(
        request,
        "console/models/import.html",
        {
            "title": _("Import a model"),
            "lede": _("Safetensors and text only. Every file is hashed on the way in."),
            "crumbs": [{"label": _("Models"), "url": reverse("console:models")}],
            "form": form,
        },
        status=422 if form.errors else 200,
    )


def _pull_snippet(model_id: str) -> str:
    return (
        f"export HF_ENDPOINT={settings.FACTORY_BASE_URL}/hub\n"
        "export HF_TOKEN=<an API key with the scope read>\n"
        f"hf download {model_id}"
    )
