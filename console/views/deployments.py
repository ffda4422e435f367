"""Deployments: does it answer, how fast, on which chips?"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError, InvalidInput
from console import charts, forms, rollouts, snippets, statuses, tables, traffic
from console import replicas as drawing
from console.downloads import csv_download
from console.pages import (
    ConsoleRequest,
    console_page,
    done,
    refuse,
    show_live,
)
from console.traffic import read_traffic
from console.views import autoscaling
from deployments import selectors, services, signals
from deployments.choices import PLACED, TERMINAL, DeploymentStatus, ReplicaStatus
from deployments.models import Deployment, Replica, ReplicaEvent, RouteTarget

MOST_GUESTS = 200
SETTLED = {DeploymentStatus.READY, DeploymentStatus.STOPPED, DeploymentStatus.FAILED}


@console_page()
def deployment_list(request: ConsoleRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()
    rows = (
        Deployment.objects.of(request.organization)
        .filter(deleted_at__isnull=True)
        .select_related("revision__registered_model")
        .annotate(ready=selectors.ready_replicas())
    )
    moving = rows.exclude(status__in=SETTLED).exists()
    if query:
        rows = rows.filter(name__icontains=query)
    table = tables.make_table(
        request,
        label=_("Deployments"),
        columns=[
            tables.Column(_("Name"), sort="name"),
            tables.Column(_("Status"), sort="status"),
            tables.Column(_("Ready replicas"), numeric=True, sort="ready"),
            tables.Column(_("Revision"), minor=True),
            tables.Column(_("Pool"), sort="pool_name", minor=True),
            tables.Column(_("Created"), sort="created_at"),
        ],
        rows=rows,
        row_template="console/deployments/_row.html",
        default_sort="name",
        filtered=bool(query),
    )
    return show_live(
        request,
        "console/deployments/list.html",
        "console/deployments/_list.html",
        {
            "title": _("Deployments"),
            "lede": _("What answers at /v1/, and on which accelerators."),
            "actions": "console/deployments/_actions.html",
            "table": table,
            "query": query,
        },
        moving=moving,
    )


@console_page()
def deployment_detail(request: ConsoleRequest, deployment_id: UUID) -> HttpResponse:
    deployment = find(request, deployment_id)
    replicas = list_replicas(deployment)
    live = [one for one in replicas if one.status not in TERMINAL]
    names = _public_names(deployment)
    csv_url = reverse("console:deployment_traffic", args=[deployment.pk])
    card = rollouts.card_of(deployment, now=request.now)
    seen = read_traffic(deployment, [one.pk for one in replicas], now=request.now, csv_url=csv_url)
    return show_live(
        request,
        "console/deployments/detail.html",
        "console/deployments/_live.html",
        {
            "title": deployment.name,
            "crumbs": [{"label": _("Deployments"), "url": reverse("console:deployments")}],
            "deployment": deployment,
            "card": card,
            "is_deleting": deployment.delete_requested_at is not None,
            "is_deleted": deployment.deleted_at is not None,
            "ready": selectors.count_serving(deployment),
            "guests": selectors.list_guests(deployment)[:MOST_GUESTS],
            "live": live,
            "ended": [one for one in replicas if one.status in TERMINAL][:10],
            "places": drawing.draw(live, load=None if seen is None else seen.by_replica),
            "failure": _failure(deployment, replicas),
            **drawing.logs(deployment, replicas, asked=request.GET.get("replica", "")),
            "traffic": seen,
            "load_tests": deployment.load_tests.all()[:5],
            "events": ReplicaEvent.objects.filter(replica__deployment=deployment)
            .select_related("replica")
            .order_by("-at", "-id")[:12],
            "names": names,
            "snippet": snippets.chat(names[0]) if names else "",
            "autoscaling": autoscaling.panel(request, deployment),
        },
        moving=_is_moving(deployment, live) or (card is not None and card.rollout.is_open),
    )


@require_POST
@console_page(Capability.DEVELOP)
def deployment_scale(request: ConsoleRequest, deployment_id: UUID) -> HttpResponse:
    deployment = find(request, deployment_id)
    to = reverse("console:deployment", args=[deployment.pk])
    form = forms.ScaleForm(request.POST)
    if not form.is_valid():
        return refuse(
            request,
            InvalidInput(_("Replicas must be a number from 0 to 64."), field="replicas"),
            to,
        )
    wanted = form.cleaned_data["replicas"]
    try:
        services.scale_deployment(
            organization=request.organization,
            deployment_id=deployment.pk,
            replicas=wanted,
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, _("Replicas wanted: %(count)s.") % {"count": wanted}, to)


@require_POST
@console_page(Capability.DEVELOP)
def deployment_delete(request: ConsoleRequest, deployment_id: UUID) -> HttpResponse:
    deployment = find(request, deployment_id)
    try:
        services.delete_deployment(
            organization=request.organization,
            deployment_id=deployment.pk,
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        return refuse(request, error, reverse("console:deployment", args=[deployment.pk]))
    text = _("%(name)s is being deleted: its replicas drain and stop.") % {"name": deployment.name}
    return done(request, text, reverse("console:deployments"))


@console_page()
def deployment_traffic_csv(request: ConsoleRequest, deployment_id: UUID) -> HttpResponse:
    deployment = find(request, deployment_id)
    replica_ids = [one.pk for one in list_replicas(deployment)]
    history = signals.read_history(
        replica_ids, seconds=traffic.HISTORY_SECONDS, at=request.now.timestamp()
    )
    text = charts.as_csv(traffic.COLUMNS, traffic.rows(history or []))
    return csv_download(text, f"{deployment.name}-traffic.csv")


def find(request: ConsoleRequest, deployment_id: UUID) -> Deployment:
    rows = Deployment.objects.of(request.organization).select_related(
        "revision__registered_model__organization", "host"
    )
    return get_object_or_404(rows, pk=deployment_id)


def list_replicas(deployment: Deployment) -> list[Replica]:
    """The newest, with all that a page tells of them; `allocation.held_slots` are its slots."""
    slots = Prefetch("allocation__slots", to_attr="held_slots")
    rows = deployment.replicas.select_related(
        "node", "allocation", "variant", "revision__registered_model"
    )
    return list(
        rows.prefetch_related(slots, "allocation__slots__accelerator__type").order_by(
            "-created_at"
        )[:30]
    )


@dataclass(frozen=True)
class Failure:
    """Why the newest replica that failed did, for as long as none has become ready since."""

    heading: str
    text: str
    at: datetime | None


def _failure(deployment: Deployment, replicas: Iterable[Replica]) -> Failure | None:
    newest = next((one for one in replicas if one.status == ReplicaStatus.FAILED), None)
    if newest is None or not deployment.failures or deployment.deleted_at is not None:
        return None
    ended_at = newest.ended_at
    if ended_at and any(one.ready_at and one.ready_at > ended_at for one in replicas):
        return None
    heading = statuses.reason_word(newest.status_reason) or _("A replica failed")
    return Failure(heading=heading, text=newest.message, at=newest.ended_at)


def _is_moving(deployment: Deployment, live: Iterable[Replica]) -> bool:
    if deployment.status not in SETTLED or deployment.observed_generation < deployment.generation:
        return deployment.deleted_at is None
    return any(one.status in PLACED - {ReplicaStatus.READY} for one in live)


def _public_names(deployment: Deployment) -> list[str]:
    targets = RouteTarget.objects.filter(deployment=deployment).select_related("route")
    return [target.route.name for target in targets]
