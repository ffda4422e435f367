"""Gates of a model's aliases: what a revision must have shown before it is promoted."""

from dataclasses import dataclass
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from accounts.models import Organization
from common.errors import DomainError
from console import intervals, offers
from console.evaluation_forms import GateForm
from console.pages import ConsoleRequest, add_refusal, console_page, done, refuse, show
from models_registry import promotion
from models_registry.models import AliasGate, RegisteredModel
from models_registry.rules import Rule
from training import services
from training.models import DatasetSplit


@dataclass(frozen=True)
class Shown:
    """A gate in words."""

    alias: str
    dataset: str
    conditions: list[str]


def shown(model: RegisteredModel) -> list[Shown]:
    """The model's gates, by alias."""
    return [_shown(gate) for gate in AliasGate.objects.filter(registered_model=model)]


def offer(organization: Organization) -> GateForm:
    return GateForm(splits=offers.splits(organization))


@console_page(Capability.DEVELOP)
def gate_set(request: ConsoleRequest, model_id: UUID) -> HttpResponse:
    rows = RegisteredModel.objects.owned_by(request.organization)
    model = get_object_or_404(rows, pk=model_id)
    to = reverse("console:model", args=[model.pk])
    form = GateForm(request.POST or None, splits=offers.splits(request.organization))
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        split = DatasetSplit.objects.get(pk=asked["split"])  # one of those the form offered
        rule = {
            "dataset_version": str(split.version_id),
            "split": split.name,
            "conditions": [form.condition()],
        }
        if asked["max_age_days"]:
            rule["max_age_days"] = asked["max_age_days"]
        try:
            services.set_alias_gate(
                organization=request.organization,
                model_id=model.pk,
                alias=asked["alias"],
                rule=rule,
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = _("From now on %(alias)s has a gate.") % {"alias": asked["alias"]}
            return done(request, text, to)
    return show(
        request,
        "console/models/gate.html",
        {
            "title": _("Gate of an alias"),
            "lede": _("The alias moves only to revisions that have shown what is asked for here."),
            "crumbs": [
                {"label": _("Models"), "url": reverse("console:models")},
                {"label": model.name, "url": to},
            ],
            "form": form,
        },
        status=422 if form.errors else 200,
    )


@require_POST
@console_page(Capability.DEVELOP)
def gate_remove(request: ConsoleRequest, model_id: UUID, alias: str) -> HttpResponse:
    to = reverse("console:model", args=[model_id])
    try:
        promotion.remove_gate(
            organization=request.organization,
            model_id=model_id,
            alias=alias,
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        if error.status_code == 404:
            raise
        return refuse(request, error, to)
    return done(request, _("%(alias)s has no gate any more.") % {"alias": alias}, to)


def _shown(gate: AliasGate) -> Shown:
    rule = Rule.read(gate.rule)
    words: list[str] = []
    for each in rule.conditions:
        label = intervals.label_of(each.metric)
        if each.at_least is not None:
            words.append(
                _("%(metric)s at least %(bound)s")
                % {"metric": label, "bound": f"{each.at_least:g}"}
            )
        if each.at_most is not None:
            words.append(
                _("%(metric)s at most %(bound)s") % {"metric": label, "bound": f"{each.at_most:g}"}
            )
        if each.worse_by_at_most is not None:
            words.append(
                _("%(metric)s worse than the present one by at most %(bound)s")
                % {"metric": label, "bound": f"{each.worse_by_at_most:g}"}
            )
    return Shown(gate.alias, f"{rule.dataset_name}/{rule.split}", words)
