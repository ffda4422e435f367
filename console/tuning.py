"""The training wizard: from what a URL says to the step to show, and to the run in the end.

Everything is in the query, so that back works, a link leads to any step, and nothing is kept on
the server. A step is reached once all before it are sound; else the first that is not is shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django import forms
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from accounts.audit import Actor
from accounts.models import Organization
from common.errors import DomainError
from console import offers
from console.pages import add_refusal
from console.run_forms import BaseStep, DataStep, MethodStep, PlaceStep, StartStep
from console.suggestions import Suggestion, suggest
from models_registry.models import Revision
from trainer.spec import BEST_METRICS, DATA_KINDS
from training import plans, recipes, services
from training.choices import DatasetKind
from training.models import DatasetVersion, TrainingRun
from training.plans import RunOption, TrainingPlan
from training.recipes import Recipe
from training.services import settling

STEPS = ("model", "data", "method", "where", "start")
SAMPLES_A_RUN = 10
WATCHED = ("heldout", "eval", "validation", "test")  # splits proposed to watch, the first there


@dataclass
class Wizard:
    """The step to show and what is known by then."""

    organization: Organization
    now: datetime
    values: Mapping[str, str]  # of the query: the last value of each name
    step: str = STEPS[0]
    form: forms.Form | None = None
    base: Revision | None = None
    version: DatasetVersion | None = None
    recipe: Recipe | None = None  # in force, chosen or default
    plan: TrainingPlan | None = None
    suggestions: list[Suggestion] = field(default_factory=list)  # of the step that asks where
    answers: dict[str, Any] = field(default_factory=dict)  # cleaned, of all sound steps
    given: dict[str, Any] = field(default_factory=dict)  # hyperparameters that were typed

    @property
    def is_complete(self) -> bool:
        return self.step == STEPS[-1]

    @property
    def options(self) -> list[RunOption]:
        return list(self.plan.options) if self.plan is not None else []

    @property
    def fits_now(self) -> list[RunOption]:
        return [option for option in self.options if option.fits]

    @property
    def may_wait(self) -> bool:
        return any(option.may_wait or option.fits for option in self.options)

    @property
    def explained(self) -> list[dict[str, Any]]:
        """Each value of the recipe that holds, why, and whether a person changed it."""
        if self.recipe is None or self.base is None or self.plan is None:
            return []
        in_force = self.plan.asked.hyperparameters
        settings = self.recipe.settings_for(parameters=self.base.parameter_count)
        return [
            {
                "name": name,
                "value": in_force[name],
                "reason": setting.reason,
                "source": setting.source,
                "is_own": in_force[name] != setting.value,
            }
            for name, setting in settings.items()
        ]

    @property
    def hidden(self) -> list[tuple[str, str]]:
        """What the step's own form does not ask, to ride along with it."""
        shown = {"step", "q", "csrfmiddlewaretoken"}
        shown |= set(self.form.fields) if self.form is not None else set()
        return [(name, value) for name, value in self.values.items() if name not in shown]

    @property
    def steps(self) -> list[dict[str, object]]:
        """For the stepper; those behind lead back."""
        labels = (_("Model"), _("Data"), _("Method"), _("Where, how long, what price"), _("Start"))
        here = STEPS.index(self.step)
        return [
            {
                "label": label,
                "done": number < here,
                "current": number == here,
                "url": self.address(STEPS[number]) if number < here else "",
            }
            for number, label in enumerate(labels)
        ]

    @property
    def back_url(self) -> str:
        here = STEPS.index(self.step)
        return self.address(STEPS[here - 1]) if here else ""

    def address(self, step: str) -> str:
        kept = {name: value for name, value in self.values.items() if name not in {"step", "q"}}
        kept.pop("csrfmiddlewaretoken", None)
        return "?" + urlencode(kept | {"step": step})


def walk(*, organization: Organization, values: Mapping[str, str], now: datetime) -> Wizard:
    """As far as the query asks to go, or as it is sound. A query with a base alone goes past the
    first step, one with base and data past the second."""
    wizard = Wizard(organization=organization, now=now, values=values)
    first = "model" if "base" not in values else "method" if "data" in values else "data"
    asked = values.get("step", first)
    goal = STEPS.index(asked) if asked in STEPS else 0
    for number, step in enumerate(STEPS):
        if not enter(wizard, step, goes_on=number < goal) or number == goal:
            break
    return wizard


def enter(wizard: Wizard, step: str, *, goes_on: bool) -> bool:
    """Take the step; whether it is sound. `goes_on`: its answers are in the query."""
    wizard.step, wizard.form = step, None
    steps = dict(zip(STEPS, (_model, _data, _method, _where, _start), strict=True))
    return steps[step](wizard, goes_on)


def start(wizard: Wizard, *, actor: Actor) -> TrainingRun:
    """Make what a complete wizard describes. Raises what create_training_run raises."""
    answers, base, version = wizard.answers, wizard.base, wizard.version
    if base is None or version is None:
        raise ValueError("the wizard is not complete")
    return services.create_training_run(
        organization=wizard.organization,
        name=answers["name"],
        base_revision_id=base.pk,
        dataset_version_id=version.pk,
        output_name=answers["output_name"],
        method=answers["method"],
        tuning=answers["tuning"],
        recipe=answers["recipe"],
        hyperparameters=wizard.given | _watching(wizard),
        accelerators=answers["accelerators"],
        pool_name=answers["pool_name"],
        train_split=answers["train_split"],
        eval_split=answers["eval_split"],
        actor=actor,
        now=wizard.now,
    )


def refuse(wizard: Wizard, error: DomainError) -> None:
    """Back to the step whose field the refusal speaks of, to the last one if none."""
    name = _field_of(error)
    for step in STEPS:
        enter(wizard, step, goes_on=True)
        form = wizard.form
        if form is not None and (name in form.fields or step == STEPS[-1]):
            _add(form, error)
            return


def _model(wizard: Wizard, goes_on: bool) -> bool:
    choices = offers.revisions(wizard.organization, adapters=False)
    asked = wizard.values.get("base", "")
    form = BaseStep(wizard.values if goes_on or asked else None, revisions=choices)
    wizard.form = form
    if not form.is_valid():
        return False
    rows = Revision.objects.of(wizard.organization).select_related("registered_model")
    wizard.base = rows.get(pk=asked)
    return True


def _data(wizard: Wizard, goes_on: bool) -> bool:
    choices = offers.dataset_versions(wizard.organization)
    values = dict(wizard.values)
    is_bound = goes_on or bool(values.get("data"))
    if is_bound:
        values.setdefault("train_split", "train")
    form = DataStep(values if is_bound else None, versions=choices)
    wizard.form = form
    if not is_bound or "data" not in values or not _known(form, "data"):
        form.is_valid()
        return False
    rows = DatasetVersion.objects.filter(dataset__organization=wizard.organization)
    wizard.version = rows.select_related("dataset").get(pk=values["data"])
    names = [split.name for split in wizard.version.splits.all()]
    if "eval_split" not in wizard.values:  # not asked yet: propose one that is there
        values["eval_split"] = next((name for name in WATCHED if name in names), "")
    if "train_split" not in wizard.values and values["train_split"] not in names:
        values["train_split"] = next(iter(names), "train")
    splits = [(one.name, f"{one.name} ({one.examples:,})") for one in wizard.version.splits.all()]
    form = DataStep(values, versions=choices, splits=splits)
    wizard.form = form
    if not form.is_valid():
        return False
    for name in ("train_split", "eval_split"):
        chosen = form.cleaned_data[name]
        if chosen and chosen not in names:
            text = _("It has no split of this name. Use one of %(names)s.")
            form.add_error(name, text % {"names": ", ".join(names)})
    if form.errors:
        return False
    wizard.answers |= form.cleaned_data
    return True


def _known(form: forms.Form, name: str) -> bool:
    form.is_valid()
    return name in form.cleaned_data


def _method(wizard: Wizard, _goes_on: bool) -> bool:
    base, version = wizard.base, wizard.version
    if base is None or version is None:
        return False
    methods = [name for name, kind in DATA_KINDS.items() if kind == version.kind]
    values = {"method": methods[0], "tuning": "lora", "recipe": ""} | dict(wizard.values)
    kinds = dict(DatasetKind.choices)
    refused: dict[str, dict[str, object]] = {
        "method": {
            name: _("Learns from %(wanted)s; this data holds %(held)s.")
            % {"wanted": str(kinds[kind]).lower(), "held": str(kinds[version.kind]).lower()}
            for name, kind in DATA_KINDS.items()
            if kind != version.kind
        },
        "tuning": {
            tuning: _("Needs an accelerator of kind %(wanted)s; yours are %(present)s.")
            % {"wanted": ", ".join(wanted), "present": ", ".join(present) or _("none")}
            for tuning, (wanted, present) in settling.list_refused_tunings(
                wizard.organization
            ).items()
        },
    }
    offered = recipes.list_recipes(method=values["method"], tuning=values["tuning"])
    if values["recipe"] not in {recipe.key for recipe in offered}:
        values["recipe"] = ""  # of the method or tuning that was chosen before
    if values.get("best_metric") not in BEST_METRICS.get(values["method"], ()):
        values["best_metric"] = ""  # of the method that was chosen before
    form = MethodStep(
        values,
        refused=refused,
        best_metrics=BEST_METRICS.get(values["method"], ()),
        recipes=[(one.key, f"{one.title} ({one.key})") for one in offered],
    )
    wizard.form = form
    if not form.is_valid():
        return False
    wizard.given = form.hyperparameters()
    wizard.answers |= form.cleaned_data
    try:
        wizard.plan = _plan(wizard, accelerators=1)
        wizard.recipe = wizard.plan.asked.recipe
    except DomainError as error:
        _add(form, error)
        return False
    return True


def _where(wizard: Wizard, goes_on: bool) -> bool:
    pools = [(name, name) for name, _label in offers.pools(wizard.organization)]
    values = {"accelerators": "1", "pool_name": ""} | dict(wizard.values)
    form = PlaceStep(values, pools=pools)
    wizard.form = form
    if not form.is_valid():
        return False
    wizard.answers |= form.cleaned_data
    try:
        wizard.plan = _plan(wizard, accelerators=form.cleaned_data["accelerators"])
    except DomainError as error:
        _add(form, error)
        return False
    if not goes_on:
        wizard.suggestions = suggest(lambda count: _plan(wizard, accelerators=count))
    return True


def _start(wizard: Wizard, goes_on: bool) -> bool:
    base, version = wizard.base, wizard.version
    is_bound = goes_on or "name" in wizard.values
    proposed = f"{base.registered_model.name}-{version.dataset.name}" if base and version else ""
    form = StartStep(
        wizard.values if is_bound else None,
        initial={"name": proposed, "output_name": proposed},
    )
    wizard.form = form
    chosen = wizard.answers.get("pool_name", "")
    if wizard.plan is not None and chosen:
        kept = [option for option in wizard.plan.options if option.pool_name == chosen]
        wizard.plan = _with_options(wizard.plan, kept)
    if is_bound and form.is_valid():
        wizard.answers |= form.cleaned_data
    return not form.errors


def _with_options(plan: TrainingPlan, options: list[RunOption]) -> TrainingPlan:
    return TrainingPlan(
        asked=plan.asked,
        examples=plan.examples,
        tokens=plan.tokens,
        steps=plan.steps,
        memory=plan.memory,
        options=options,
    )


def _plan(wizard: Wizard, *, accelerators: int) -> TrainingPlan:
    answers, base, version = wizard.answers, wizard.base, wizard.version
    if base is None or version is None:
        raise ValueError("model and data come first")
    return plans.plan_training(
        organization=wizard.organization,
        base_revision_id=UUID(str(base.pk)),
        dataset_version_id=UUID(str(version.pk)),
        train_split=answers["train_split"],
        method=answers["method"],
        tuning=answers["tuning"],
        recipe=answers["recipe"],
        hyperparameters=wizard.given,
        accelerators=accelerators,
        now=wizard.now,
    )


def _watching(wizard: Wizard) -> dict[str, Any]:
    """About ten looks at the held-out split and at sample answers in a run."""
    steps = wizard.plan.steps if wizard.plan is not None else None
    every = max((steps or 1000) // SAMPLES_A_RUN, 1)
    asked = wizard.answers.get("sample_every_steps")
    watching: dict[str, Any] = {}
    if asked != 0:
        watching["sample_every_steps"] = asked or every
    if wizard.answers.get("eval_split"):
        watching["eval_every_steps"] = every
    return watching


def _add(form: forms.Form, error: DomainError) -> None:
    error.field = _field_of(error)
    add_refusal(form, error)


def _field_of(error: DomainError) -> str:
    """By the names that the fields have here."""
    name = error.field.removeprefix("hyperparameters.")
    return {
        "base_revision": "base",
        "dataset_version": "data",
        "max_seconds": "max_minutes",
    }.get(name, name)
