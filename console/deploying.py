"""The deploy wizard: from what a URL says to the step to show, and to the deployment in the end.

Everything is in the query, so that back works, a link leads to any step, and nothing is kept on
the server. A step is reached once all before it are sound; else the first that is not is shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from django import forms
from django.db import transaction
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from accounts.audit import Actor
from accounts.models import Organization
from common.errors import DomainError
from console import offers
from console.deploy_forms import CopiesStep, HostStep, ModelStep, NameStep, WhereStep
from console.pages import add_refusal
from deployments import adapters, fitting, services
from deployments.fitting import PoolOption, ServingPlan
from deployments.models import Deployment
from deployments.services.autoscaling import Wanted
from deployments.variants import Content
from models_registry.models import Revision

STEPS = ("model", "where", "copies", "summary")
OWN_REPLICAS = "own"
HOURS_A_MONTH = 730
ROOM_ASKED = 8  # replicas that a pool is asked for before anybody said how many
# What a replica may hold, from little to much; the first that fits somewhere is proposed.
SIZES = (("slots", 1), ("slots", 2), ("whole", 1), ("whole", 2), ("whole", 4), ("whole", 8))


@dataclass(frozen=True)
class Price:
    """Of all replicas together, an hour or a month; a range where pool or number is open."""

    low: Decimal
    high: Decimal
    currency: str

    def times(self, low: int, high: int) -> "Price":
        return Price(self.low * low, self.high * high, self.currency)


@dataclass
class Wizard:
    """The step to show and what is known by then."""

    organization: Organization
    now: datetime
    values: Mapping[str, str]  # of the query: the last value of each name
    step: str = STEPS[0]
    form: forms.Form | None = None
    host_form: HostStep | None = None  # beside `form`, or in its place, at "where"
    revision: Revision | None = None
    hosts: list[Deployment] = field(default_factory=list)
    host: Deployment | None = None  # whose replicas serve the adapter
    content: Content | None = None
    plan: ServingPlan | None = None
    answers: dict[str, Any] = field(default_factory=dict)  # cleaned, of all sound steps

    @property
    def is_adapter(self) -> bool:
        return self.revision is not None and adapters.is_adapter(self.revision)

    @property
    def is_complete(self) -> bool:
        return self.step == STEPS[-1]

    @property
    def chosen_pool(self) -> str:
        return self.values.get("pool_name", "")

    @property
    def chosen_options(self) -> list[PoolOption]:
        """What the chosen pool says, or all of them where any is welcome."""
        options = self.plan.options if self.plan is not None else []
        return [one for one in options if self.chosen_pool in ("", one.pool_name)]

    @property
    def room_now(self) -> int:
        return sum(option.replicas_now for option in self.chosen_options)

    @property
    def may_wait(self) -> bool:
        return any(option.may_wait or option.fits for option in self.chosen_options)

    @property
    def replica_range(self) -> tuple[int, int]:
        """How many replicas there may be, least and most."""
        if self.answers.get("autoscaling"):
            return self.answers["min_replicas"], self.answers["max_replicas"]
        wanted = self.answers.get("replicas", 0)
        return wanted, wanted

    @property
    def price_per_hour(self) -> Price | None:
        """Of all replicas; None where nothing fits now, or no price is set."""
        prices = [
            (option.price_per_hour, option.currency)
            for option in self.chosen_options
            if option.fits and option.price_per_hour is not None
        ]
        if not prices or len({currency for _price, currency in prices}) > 1:
            return None
        amounts = [price for price, _currency in prices]
        return Price(min(amounts), max(amounts), prices[0][1]).times(*self.replica_range)

    @property
    def price_per_month(self) -> Price | None:
        hourly = self.price_per_hour
        return hourly.times(HOURS_A_MONTH, HOURS_A_MONTH) if hourly is not None else None

    @property
    def hidden(self) -> list[tuple[str, str]]:
        """What the step's own form does not ask, to ride along with it."""
        shown = {"step", "q", "csrfmiddlewaretoken"}
        for one in (self.form, self.host_form):
            shown |= set(one.fields) if one is not None else set()
        return [(name, value) for name, value in self.values.items() if name not in shown]

    @property
    def steps(self) -> list[dict[str, object]]:
        """For the stepper; those behind lead back."""
        labels = (_("Model"), _("Where it fits"), _("Name and replicas"), _("Summary"))
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
    """As far as the query asks to go, or as it is sound. `step` names where to; a query with a
    revision alone goes past the first step."""
    wizard = Wizard(organization=organization, now=now, values=values)
    asked = values.get("step", "where" if "revision" in values else "model")
    goal = STEPS.index(asked) if asked in STEPS else 0
    for number, step in enumerate(STEPS):
        if not _enter(wizard, step, goes_on=number < goal) or number == goal:
            break
    return wizard


@transaction.atomic
def deploy(wizard: Wizard, *, actor: Actor) -> Deployment:
    """Make what a complete wizard describes. Raises what create_deployment and set_autoscaling
    raise."""
    content, answers = wizard.content, wizard.answers
    if content is None:
        raise ValueError("the wizard is not complete")
    deployment = services.create_deployment(
        organization=wizard.organization,
        name=answers["name"],
        revision_id=content.revision_id,
        engine=content.engine,
        replicas=answers.get("replicas", 0),
        slots_per_replica=content.slots_per_replica,
        accelerators_per_replica=content.accelerators_per_replica,
        pool_name=content.pool_name,
        settings=dict(content.settings),
        host_id=wizard.host.pk if wizard.host is not None else None,
        own_replicas=wizard.host is None,
        actor=actor,
        now=wizard.now,
    )
    if answers.get("autoscaling"):
        services.set_autoscaling(
            organization=wizard.organization,
            deployment_id=deployment.pk,
            wanted=Wanted(
                min_replicas=answers["min_replicas"],
                max_replicas=answers["max_replicas"],
                target_concurrency=content.settings.get("max_concurrency", 16) / 2,
            ),
            actor=actor,
            now=wizard.now,
        )
    return deployment


def refuse(wizard: Wizard, error: DomainError) -> None:
    """Back to the step whose field the refusal speaks of, to the one before the summary if none."""
    field_name = _field_of(error)
    for step in ("where", "copies"):
        _enter(wizard, step, goes_on=True)
        form = wizard.form
        if form is not None and (field_name in form.fields or step == "copies"):
            _add(form, error)
            return


def _enter(wizard: Wizard, step: str, *, goes_on: bool) -> bool:
    """Take the step; whether it is sound. `goes_on`: its answers are in the query."""
    wizard.step, wizard.form, wizard.host_form = step, None, None
    steps = dict(zip(STEPS, (_model, _where, _copies, _summary), strict=True))
    return steps[step](wizard, goes_on)


def _model(wizard: Wizard, goes_on: bool) -> bool:
    rows = offers.servable_revisions(wizard.organization)
    choices = [(str(row.pk), str(row)) for row in rows]
    asked = wizard.values.get("revision", "")
    is_bound = goes_on or bool(asked)
    wizard.form = ModelStep(wizard.values if is_bound else None, revisions=choices)
    if not wizard.form.is_valid():
        return False
    wizard.revision = next(row for row in rows if str(row.pk) == asked)
    return True


def _where(wizard: Wizard, _goes_on: bool) -> bool:
    if wizard.is_adapter and not _choose_host(wizard):
        return False
    revision = wizard.revision
    if revision is None:
        return False
    if wizard.host is not None:
        wizard.content = Content(
            revision_id=revision.pk,
            engine=wizard.host.engine,
            slots_per_replica=1,
            accelerators_per_replica=0,
            pool_name="",
        )
        return True
    engines = offers.engines(revision)
    engine = engines[0][0] if engines else ""
    given = {"engine": engine, "max_context_tokens": "", "max_concurrency": "", "pool_name": ""}
    given |= dict(wizard.values)
    if "count" not in given or "share" not in given:
        given["share"], given["count"] = _propose(wizard, revision, given["engine"])
    pools = [(name, name) for name, _label in offers.pools(wizard.organization)]
    form = WhereStep(given, engines=engines, pools=pools)
    wizard.form = form
    if not form.is_valid():
        return False
    wizard.content = form.content(revision.pk)
    try:
        wizard.plan = _plan(wizard, revision, wizard.content, replicas=ROOM_ASKED)
    except DomainError as error:
        _add(form, error)
        return False
    return True


def _choose_host(wizard: Wizard) -> bool:
    """Whether the question on whose replicas is answered; with none to choose from, it is."""
    wizard.hosts = offers.hosts(wizard.organization, wizard.revision) if wizard.revision else []
    if not wizard.hosts:
        return True
    own = (OWN_REPLICAS, _("Replicas of its own"))
    choices = [*((str(host.pk), host.name) for host in wizard.hosts), own]
    chosen = wizard.values.get("host", choices[0][0])
    wizard.host_form = HostStep({"host": chosen}, hosts=choices)
    if not wizard.host_form.is_valid():
        return False
    wizard.host = next((host for host in wizard.hosts if str(host.pk) == chosen), None)
    return True


def _copies(wizard: Wizard, goes_on: bool) -> bool:
    kind = CopiesStep if wizard.host is None else NameStep
    taken = offers.deployment_names(wizard.organization)
    is_bound = goes_on or "name" in wizard.values
    proposed = wizard.revision.registered_model.name if wizard.revision is not None else ""
    form = kind(
        wizard.values if is_bound else None,
        taken=taken,
        initial={"name": "" if proposed in taken else proposed},
    )
    wizard.form = form
    if not form.is_valid():
        return False
    wizard.answers = form.cleaned_data
    return True


def _summary(wizard: Wizard, _goes_on: bool) -> bool:
    if wizard.host is None and wizard.revision is not None and wizard.content is not None:
        most = max(wizard.replica_range[1], wizard.answers["replicas"], 1)
        wizard.plan = _plan(wizard, wizard.revision, wizard.content, replicas=most)
    return True


def _plan(wizard: Wizard, revision: Revision, content: Content, *, replicas: int) -> ServingPlan:
    """What every pool says, whichever of them is chosen."""
    return fitting.plan_serving(
        organization=wizard.organization,
        revision=revision,
        content=replace(content, pool_name=""),
        replicas=replicas,
        now=wizard.now,
    )


def _propose(wizard: Wizard, revision: Revision, engine: str) -> tuple[str, str]:
    """The least that fits somewhere now; a slot where nothing does."""
    for share, count in SIZES:
        is_whole = share == "whole"
        content = Content(
            revision_id=revision.pk,
            engine=engine,
            slots_per_replica=1 if is_whole else count,
            accelerators_per_replica=count if is_whole else 0,
            pool_name="",
        )
        try:
            plan = _plan(wizard, revision, content, replicas=1)
        except DomainError:
            break  # the form says why
        if any(option.fits for option in plan.options):
            return share, str(count)
    return SIZES[0][0], str(SIZES[0][1])


def _add(form: forms.Form, error: DomainError) -> None:
    """As add_refusal, by the names that the fields have here."""
    error.field = _field_of(error)
    add_refusal(form, error)


def _field_of(error: DomainError) -> str:
    if error.field in {"accelerators_per_replica", "slots_per_replica"}:
        return "count"
    return error.field.removeprefix("settings.")
