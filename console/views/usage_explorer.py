"""The usage explorer: tokens, requests, money, errors and waiting over time, by who used them."""

from datetime import timedelta
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.choices import Capability
from accounts.models import ApiKey
from common.errors import InvalidInput
from console import charts
from console.downloads import csv_download
from console.pages import ConsoleRequest, console_page, said, show
from usage import explorer, periods, statements
from usage.models import UsageRecord

MEASURES: dict[str, str | Promise] = {
    "tokens": gettext_lazy("Tokens"),
    "requests": gettext_lazy("Requests"),
    "money": gettext_lazy("Money"),
    "errors": gettext_lazy("Errors"),
    "first_token": gettext_lazy("Time to first token"),
}
BY: dict[str, str | Promise] = {
    "model": gettext_lazy("Model"),
    "key": gettext_lazy("Key"),
    "cost_centre": gettext_lazy("Cost centre"),
}
SPANS: dict[str, tuple[str | Promise, timedelta, str]] = {  # label, length, step
    "24h": (gettext_lazy("24 hours"), timedelta(hours=24), "hour"),
    "7d": (gettext_lazy("7 days"), timedelta(days=7), "hour"),
    "30d": (gettext_lazy("30 days"), timedelta(days=30), "day"),
    "90d": (gettext_lazy("90 days"), timedelta(days=90), "day"),
}
MOST_CHOICES = 200


@console_page(Capability.VIEW_USAGE)
def explore(request: ConsoleRequest) -> HttpResponse:
    asked = request.GET
    measure = asked.get("measure", "tokens") if asked.get("measure") in MEASURES else "tokens"
    by = asked.get("by", "model") if asked.get("by") in BY else "model"
    default = "7d" if measure in explorer.FROM_EVENTS else "30d"
    span = asked.get("span", default) if asked.get("span") in SPANS else default
    question = _question(request, measure=measure, by=by, span=span)
    refusal, answer = "", None
    statements.refresh(organization=request.organization, now=request.now)
    try:
        answer = explorer.explore(request.organization, question)
    except InvalidInput as error:
        refusal = said(error)
    if answer is not None and asked.get("format") == "csv":
        return _csv(answer, question)
    context = {
        "title": _("Usage explorer"),
        "lede": _("Tokens, requests, money, errors and waiting, by who used them."),
        "measure": measure,
        "by": by,
        "span": span,
        "measures": MEASURES.items(),
        "bys": BY.items(),
        "spans": [(name, label) for name, (label, _length, _step) in SPANS.items()],
        "models": _models(request),
        "model": question.model_name,
        "keys": ApiKey.objects.of(request.organization).order_by("name")[:MOST_CHOICES],
        "key": str(question.key_id or ""),
        "refusal": refusal,
        "answer": answer,
        "is_time": measure == "first_token",
        "is_money": measure == "money",
        "by_label": BY[by],
        "chart": _chart(request, answer, question) if answer is not None else None,
        "rows": _rows(answer) if answer is not None else [],
    }
    return show(request, "console/usage/explore.html", context, status=422 if refusal else 200)


def _question(request: ConsoleRequest, *, measure: str, by: str, span: str) -> explorer.Question:
    _label, length, step = SPANS[span]
    start, end = periods.span(
        request.organization,
        start=(request.now - length).isoformat(),
        end=request.now.isoformat(),
        now=request.now,
        days=1,
    )
    try:
        key_id = UUID(request.GET.get("key", ""))
    except ValueError:
        key_id = None
    return explorer.Question(
        measure=measure,
        by=by,
        step=step,
        start=start,
        end=end,
        model_name=request.GET.get("model", "")[:200],
        key_id=key_id,
    )


def _models(request: ConsoleRequest) -> list[str]:
    """Those that were used in the last 90 days."""
    since = request.now - SPANS["90d"][1]
    rows = UsageRecord.objects.of(request.organization).filter(hour__gte=since)
    names = rows.exclude(model_name="").order_by().values_list("model_name", flat=True).distinct()
    return sorted(names[:MOST_CHOICES])


def _chart(
    request: ConsoleRequest, answer: explorer.Answer, question: explorer.Question
) -> charts.Chart:
    is_hourly = question.step == "hour"
    names = [f"{at:%d %H:00}" if is_hourly else f"{at:%m-%d}" for at in answer.steps]
    title = str(MEASURES[question.measure])
    x_title = _("Hour") if is_hourly else _("Day")
    url = f"{reverse('console:usage_explore')}?{urlencode(request.GET | {'format': 'csv'})}"
    if question.measure != "first_token":
        return charts.stacked_chart(
            title=title,
            x_title=x_title,
            y_title=answer.currency or title,
            names=names,
            stacks=[
                (_label(group), [value or 0.0 for value in group.values]) for group in answer.groups
            ],
            csv_url=url,
        )
    return charts.line_chart(
        title=title,
        x_title=x_title,
        y_title=_("Milliseconds, of 95 %"),
        series=[
            charts.Series(
                _label(group),
                [
                    (float(index), value)
                    for index, value in enumerate(group.values)
                    if value is not None
                ],
            )
            for group in answer.groups
        ],
        x_max=float(len(names)),
        y_from_zero=True,
        csv_url=url,
        format_x=lambda index: names[min(len(names) - 1, max(0, round(index)))],
    )


def _label(group: explorer.Group) -> str:
    if group.is_rest:
        return _("all others")
    return group.label or _("none")


def _rows(answer: explorer.Answer) -> list[tuple[str, explorer.Group, float | None, float | None]]:
    """Label, group, its share of the whole, and its highest step."""
    whole = answer.total
    return [
        (
            _label(group),
            group,
            float(group.total / whole) if whole and group.total is not None else None,
            max((value for value in group.values if value is not None), default=None),
        )
        for group in answer.groups
    ]


def _csv(answer: explorer.Answer, question: explorer.Question) -> HttpResponse:
    header = [question.step, *(_label(group) for group in answer.groups)]
    rows = (
        [at.isoformat(), *(group.values[index] for group in answer.groups)]
        for index, at in enumerate(answer.steps)
    )
    name = f"usage-{question.measure}-by-{question.by}.csv"
    return csv_download(charts.as_csv(header, rows), name)
