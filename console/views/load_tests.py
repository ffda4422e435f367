"""Load tests: how much does a deployment carry, and how long do people wait?"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console import charts, forms
from console.charts import Chart, Series
from console.downloads import csv_download
from console.pages import (
    ConsoleRequest,
    add_refusal,
    console_page,
    done,
    refuse,
    show,
    show_live,
)
from console.views.deployments import find
from deployments import services
from deployments.choices import LOAD_TEST_OVER
from deployments.models import LoadTest

COLUMNS = (
    "clients",
    "requests",
    "failures",
    "seconds",
    "input_tokens",
    "output_tokens",
    "tokens_per_second",
    "ttft_p50_milliseconds",
    "ttft_p95_milliseconds",
    "itl_p50_milliseconds",
    "itl_p95_milliseconds",
    "within_limits",
)


@dataclass(frozen=True)
class Level:
    """One line of the table: measured, being measured, or still to come."""

    clients: int
    result: dict[str, Any] | None
    is_running: bool


@console_page(Capability.DEVELOP)
def load_test_create(request: ConsoleRequest, deployment_id: UUID) -> HttpResponse:
    deployment = find(request, deployment_id)
    form = forms.LoadTestForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            test = services.start_load_test(
                organization=request.organization,
                deployment_id=deployment.pk,
                actor=request.actor,
                now=request.now,
                **form.cleaned_data,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = _("The load test of %(name)s has begun.") % {"name": deployment.name}
            return done(request, text, reverse("console:load_test", args=[test.pk]))
    return show(
        request,
        "console/load_tests/create.html",
        {
            "title": _("Test under load"),
            "lede": _(
                "Clients ask through the gateway, ever more of them, and waiting is measured."
            ),
            "crumbs": _crumbs(deployment.name, deployment.pk),
            "deployment": deployment,
            "form": form,
        },
        status=422 if form.errors else 200,
    )


@console_page()
def load_test_detail(request: ConsoleRequest, load_test_id: UUID) -> HttpResponse:
    test = _find(request, load_test_id)
    is_over = test.status in LOAD_TEST_OVER
    return show_live(
        request,
        "console/load_tests/detail.html",
        "console/load_tests/_live.html",
        {
            "title": _("Load test"),
            "crumbs": _crumbs(test.deployment_name, test.deployment_id),
            "test": test,
            "is_over": is_over,
            "levels": [
                Level(
                    clients=clients,
                    result=test.results[index] if index < len(test.results) else None,
                    is_running=index == len(test.results) and test.status == "running",
                )
                for index, clients in enumerate(test.clients)
                if index < len(test.results) or not is_over
            ],
            "charts": _charts(test),
            "has_limits": bool(test.limit_ttft_milliseconds or test.limit_itl_milliseconds),
        },
        moving=not is_over,
    )


@require_POST
@console_page(Capability.DEVELOP)
def load_test_cancel(request: ConsoleRequest, load_test_id: UUID) -> HttpResponse:
    test = _find(request, load_test_id)
    to = reverse("console:load_test", args=[test.pk])
    try:
        services.cancel_load_test(
            organization=request.organization,
            load_test_id=test.pk,
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, _("The load test stops after the level that runs."), to)


@console_page()
def load_test_csv(request: ConsoleRequest, load_test_id: UUID) -> HttpResponse:
    test = _find(request, load_test_id)
    lines = [[each.get(name) for name in COLUMNS] for each in test.results]
    return csv_download(charts.as_csv(COLUMNS, lines), f"load-test-{test.deployment_name}.csv")


def _find(request: ConsoleRequest, load_test_id: UUID) -> LoadTest:
    rows = LoadTest.objects.of(request.organization).select_related("revision__registered_model")
    return get_object_or_404(rows, pk=load_test_id)


def _crumbs(name: str, deployment_id: UUID) -> list[dict[str, str]]:
    return [
        {"label": _("Deployments"), "url": reverse("console:deployments")},
        {"label": name, "url": reverse("console:deployment", args=[deployment_id])},
    ]


def _charts(test: LoadTest) -> list[tuple[str, Chart]]:
    csv_url = reverse("console:load_test_csv", args=[test.pk])

    def line(label: str, value: str) -> Series:
        points = [
            (float(each["clients"]), float(each[value]))
            for each in test.results
            if each.get(value) is not None
        ]
        return Series(label, points)

    drawn = (
        (
            "tokens",
            _("Output tokens a second"),
            _("Tokens/s"),
            [(_("All clients"), "tokens_per_second")],
        ),
        (
            "first-token",
            _("Time to the first token"),
            _("Milliseconds"),
            [
                (_("Half of the requests"), "ttft_p50_milliseconds"),
                (_("95 of 100 requests"), "ttft_p95_milliseconds"),
            ],
        ),
        (
            "inter-token",
            _("Time between two tokens"),
            _("Milliseconds"),
            [
                (_("Half of the tokens"), "itl_p50_milliseconds"),
                (_("95 of 100 tokens"), "itl_p95_milliseconds"),
            ],
        ),
    )
    return [
        (
            name,
            charts.line_chart(
                title=title,
                x_title=_("Clients"),
                y_title=y_title,
                series=[line(label, value) for label, value in lines],
                x_max=float(max(test.clients)),
                y_from_zero=True,
                csv_url=csv_url,
            ),
        )
        for name, title, y_title, lines in drawn
    ]
