"""Chips, for operators: every accelerator as a cell, pools, nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.core.paginator import Page, Paginator
from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from chips import selectors, services
from chips.models import Accelerator, AllocatedSlot, Node, Pool
from common.errors import DomainError
from console import forms
from console.pages import ConsoleRequest, console_page, done, refuse, show, show_live
from deployments.choices import ReplicaStatus
from deployments.models import Replica
from training.choices import RunStatus
from training.models import TrainingRun

NODES_A_PAGE = 60
MOST_WAITING = 20


@dataclass(frozen=True)
class Cell:
    """One accelerator: how it looks, and its whole story in words."""

    tone: str
    icon: str
    text: str


@dataclass(frozen=True)
class NodeCells:
    node: Node
    cells: list[Cell]


@dataclass(frozen=True)
class PoolMap:
    pool: Pool
    use: selectors.PoolUse
    nodes: list[NodeCells]  # one page of them
    page: Page[Node]


@dataclass(frozen=True)
class Waiting:
    """What waits for accelerators, since when and why."""

    organization: str
    what: str
    name: str
    since: datetime
    message: str


@console_page(Capability.OPERATE)
def chip_map(request: ConsoleRequest) -> HttpResponse:
    """All pools with their first nodes; `?pool=` pages through one."""
    use = {one.pool_name: one for one in selectors.list_pool_use()}
    chosen = request.GET.get("pool", "")
    rows = Pool.objects.filter(name=chosen) if chosen else Pool.objects.all()
    number = request.GET.get("page") if chosen else "1"
    waiting = _waiting()
    total = sum(one.accelerators for one in use.values())
    used = sum(one.accelerators_held for one in use.values())
    return show_live(
        request,
        "console/chips/map.html",
        "console/chips/_map.html",
        {
            "title": _("Chips"),
            "lede": _("Which accelerators work, idle, wait or ail."),
            "pools": [_pool_map(pool, use[pool.name], number) for pool in rows],
            "chosen": chosen,
            "total": total,
            "used": used,
            "idle": total - used,
            "node_count": sum(one.nodes for one in use.values()),
            "ailing": sum(one.nodes - one.nodes_ready for one in use.values()),
            "waiting": waiting,
            "legend": _legend(),
        },
        moving=bool(waiting),
    )


@console_page(Capability.OPERATE)
def node_detail(request: ConsoleRequest, node_id: UUID) -> HttpResponse:
    node = get_object_or_404(Node.objects.select_related("pool"), pk=node_id)
    slots = _live_slots()
    accelerators = node.accelerators.select_related("type").prefetch_related(slots)
    return show(
        request,
        "console/chips/node.html",
        {
            "title": node.name,
            "status": "cordoned" if node.cordoned_at else node.status,
            "crumbs": [{"label": _("Chips"), "url": reverse("console:chips")}],
            "node": node,
            "accelerators": [
                {
                    "row": one,
                    "cell": _cell(one, node),
                    "holders": [slot.allocation for slot in _held(one)],
                }
                for one in accelerators
            ],
        },
    )


@require_POST
@console_page(Capability.OPERATE)
def node_cordon(request: ConsoleRequest, node_id: UUID) -> HttpResponse:
    """Place nothing new on the node; what runs there goes on."""
    to = reverse("console:node", args=[node_id])
    form = forms.CordonForm(request.POST)
    reason = form.cleaned_data["reason"] if form.is_valid() else ""
    try:
        node = services.cordon_node(
            node_id=node_id, reason=reason, actor=request.actor, now=request.now
        )
    except DomainError as error:
        return refuse(request, error, reverse("console:chips"))
    return done(request, _("Nothing new is placed on %(name)s.") % {"name": node.name}, to)


@require_POST
@console_page(Capability.OPERATE)
def node_uncordon(request: ConsoleRequest, node_id: UUID) -> HttpResponse:
    """Place on the node again."""
    to = reverse("console:node", args=[node_id])
    try:
        node = services.uncordon_node(node_id=node_id, actor=request.actor, now=request.now)
    except DomainError as error:
        return refuse(request, error, reverse("console:chips"))
    return done(request, _("%(name)s takes new work again.") % {"name": node.name}, to)


def _legend() -> list[tuple[str, Cell]]:
    """What each kind of cell means, as the page explains it."""
    return [
        (_("In use"), Cell("move", "training", "")),
        (_("Free"), Cell("good", "check", "")),
        (_("Taken out: cordoned"), Cell("warn", "pause", "")),
        (_("Suspect or unhealthy"), Cell("bad", "alert", "")),
        (_("Gone"), Cell("", "cross", "")),
    ]


def _live_slots() -> "Prefetch[str]":
    rows = AllocatedSlot.objects.filter(released_at__isnull=True)
    return Prefetch(
        "allocated_slots", rows.select_related("allocation__organization"), to_attr="live_slots"
    )


def _pool_map(pool: Pool, use: selectors.PoolUse, number: str | None) -> PoolMap:
    accelerators = Prefetch(
        "accelerators", Accelerator.objects.select_related("type").prefetch_related(_live_slots())
    )
    rows = pool.nodes.order_by("name").prefetch_related(accelerators)
    page = Paginator(rows, NODES_A_PAGE).get_page(number)
    nodes = [
        NodeCells(node, [_cell(one, node) for one in node.accelerators.all()]) for node in page
    ]
    return PoolMap(pool=pool, use=use, nodes=nodes, page=page)


def _waiting() -> list[Waiting]:
    """Runs and replicas of every organization that hold nothing yet, the longest waiting first."""
    runs = TrainingRun.objects.filter(status=RunStatus.PENDING).select_related("organization")
    replicas = Replica.objects.filter(status=ReplicaStatus.PENDING, wanted=True)
    replicas = replicas.select_related("deployment__organization")
    found = [
        Waiting(run.organization.name, _("Training run"), run.name, run.created_at, run.message)
        for run in runs.order_by("created_at")[:MOST_WAITING]
    ]
    found += [
        Waiting(
            one.deployment.organization.name,
            _("Replica"),
            one.deployment.name,
            one.created_at,
            one.message or one.deployment.message,
        )
        for one in replicas.order_by("created_at")[:MOST_WAITING]
    ]
    return sorted(found, key=lambda one: one.since)[:MOST_WAITING]


def _held(accelerator: Accelerator) -> Sequence[AllocatedSlot]:
    slots: Sequence[AllocatedSlot] = accelerator.live_slots  # type: ignore[attr-defined]
    return slots


def _cell(accelerator: Accelerator, node: Node) -> Cell:
    where = f"{node.name} / {accelerator.index} · {accelerator.type}"
    held = _held(accelerator)
    holders = ", ".join(
        sorted({f"{slot.allocation.organization} {slot.allocation.subject_name}" for slot in held})
    )
    if accelerator.status == "gone" or node.status == "lost":
        return Cell("", "cross", _("%(where)s: gone") % {"where": where})
    if accelerator.status == "unhealthy" or node.status == "suspect":
        return Cell("bad", "alert", _("%(where)s: needs attention") % {"where": where})
    if held:
        return Cell(
            "move",
            "training",
            _("%(where)s: %(used)s of %(slots)s slots used by %(holders)s")
            % {
                "where": where,
                "used": len(held),
                "slots": accelerator.slots,
                "holders": holders,
            },
        )
    if node.cordoned_at is not None:
        return Cell("warn", "pause", _("%(where)s: cordoned") % {"where": where})
    return Cell("good", "check", _("%(where)s: free") % {"where": where})
