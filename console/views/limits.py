"""Limits and budgets: what is used of them now, set, changed, removed."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts import limit_usage, limits
from accounts.choices import Capability, LimitKind
from accounts.models import ApiKey, Limit, LimitAlert
from common.errors import DomainError
from console import formats, limit_forms, tables
from console.pages import ConsoleRequest, add_refusal, console_page, done, show
from deployments.models import Route

ALERTS = 10


@dataclass(frozen=True)
class Shown:
    """How much of a limit is used, in words and in percent."""

    kind: str | Promise
    used: str
    amount: str
    percent: int | None  # None: nobody counts it yet
    is_near: bool
    resets_at: object


@console_page()
def limit_list(request: ConsoleRequest) -> HttpResponse:
    table = tables.make_table(
        request,
        label=_("Limits"),
        columns=[
            tables.Column(_("What is limited"), sort="kind"),
            tables.Column(_("Used now")),
            tables.Column(_("Begins anew"), minor=True),
            tables.Column(""),
        ],
        rows=limits.list_limits(request.organization),
        row_template="console/limits/_row.html",
        default_sort="kind",
    )
    rows: list[Limit] = list(table.page)
    used = limit_usage.read(rows, now=request.now)
    for row in table.page:
        row.shown = _shown(row, used[row.pk])
    alerts = LimitAlert.objects.of(request.organization)[:ALERTS]
    return show(
        request,
        "console/limits/list.html",
        {
            "title": _("Limits"),
            "lede": _("What the organization, a key or a model may use: rates and budgets."),
            "actions": "console/limits/_actions.html",
            "table": table,
            "alerts": [(alert, LimitKind(alert.kind).label) for alert in alerts],
        },
    )


@console_page(Capability.MANAGE_KEYS)
def limit_create(request: ConsoleRequest) -> HttpResponse:
    keys = ApiKey.objects.of(request.organization).filter(
        is_internal=False, revoked_at__isnull=True
    )
    names = Route.objects.of(request.organization).values_list("name", flat=True)
    form = limit_forms.LimitForm(request.POST or None, keys=keys, models=names)
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        try:
            limits.create_limit(
                organization=request.organization,
                wanted=limits.Wanted(
                    kind=asked["kind"],
                    amount=asked["amount"],
                    key_id=UUID(asked["key"]) if asked["key"] else None,
                    model_name=asked["model_name"],
                    warn_percent=asked["warn_percent"],
                ),
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = _("The limit holds. Gateways follow within a second.")
            return done(request, text, reverse("console:limits"))
    context = {
        "title": _("Set a limit"),
        "lede": _("A request must find room in every limit that applies to it."),
        "form": form,
        "label": _("Set limit"),
    }
    return show(request, "console/limits/form.html", context, status=422 if form.errors else 200)


@console_page(Capability.MANAGE_KEYS)
def limit_change(request: ConsoleRequest, limit_id: UUID) -> HttpResponse:
    row = limits.get_limit(request.organization, limit_id)
    form = limit_forms.AmountForm(request.POST or None, initial=limit_forms.amounts_of(row))
    if request.method == "POST" and form.is_valid():
        try:
            limits.change_limit(
                organization=request.organization,
                limit_id=limit_id,
                changes=form.cleaned_data,
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = _("The limit is changed. Gateways follow within a second.")
            return done(request, text, reverse("console:limits"))
    context = {
        "title": LimitKind(row.kind).label,
        "lede": _("What was used so far stays counted."),
        "form": form,
        "label": _("Save"),
    }
    return show(request, "console/limits/form.html", context, status=422 if form.errors else 200)


@require_POST
@console_page(Capability.MANAGE_KEYS)
def limit_remove(request: ConsoleRequest, limit_id: UUID) -> HttpResponse:
    """POST: the limit holds no more."""
    limits.delete_limit(
        organization=request.organization,
        limit_id=limit_id,
        actor=request.actor,
        now=request.now,
    )
    return done(request, _("The limit is removed."), reverse("console:limits"))


def _shown(row: Limit, used: limit_usage.Used) -> Shown:
    kind = LimitKind(row.kind)
    percent = None
    if used.amount is not None:
        percent = 100 if row.amount <= 0 else min(100, int(used.amount * 100 / row.amount))
    return Shown(
        kind=kind.label,
        used=_amount(row, used.amount) if used.amount is not None else "",
        amount=_amount(row, row.amount),
        percent=percent,
        is_near=percent is not None and percent >= (row.warn_percent or 100),
        resets_at=used.resets_at,
    )


def _amount(row: Limit, amount: Decimal) -> str:
    if LimitKind(row.kind).measure == "money":
        return formats.money(amount, row.organization.currency)
    return formats.number(amount)
