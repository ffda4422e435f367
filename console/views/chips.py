"""Chips, for operators: every accelerator as a cell, pools, nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from chips import services
from chips.models import Accelerator, AllocatedSlot, Node, Pool
from common.errors import DomainError
from console import forms
from console.pages import ConsoleRequest, console_page, done, refuse, show, show_live


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
    nodes: list[NodeCells]
    accelerators: int
    used: float  # accelerators, in shares of slots


@console_page(Capability.OPERATE)
def chip_map(request: ConsoleRequest) -> HttpResponse:
    pools = [_pool_map(pool) for pool in Pool.objects.prefetch_related(_nodes())]
    total = sum(one.accelerators for one in pools)
    used = sum(one.used for one in pools)
    nodes = [entry.node for one in pools for entry in one.nodes]
    return show_live(
        request,
        "console/chips/map.html",
        "console/chips/_map.html",
        {
            "title": _("Chips"),
            "lede": _("Which accelerators work, idle, wait or ail."),
            "pools": pools,
            "total": total,
            "used": used,
            "idle": total - used,
            "node_count": len(nodes),
            "ailing": sum(1 for node in nodes if node.status != "ready"),
            "legend": _legend(),
        },
        moving=False,
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


def _nodes() -> "Prefetch[str]":
    accelerators = Prefetch(
        "accelerators", Accelerator.objects.select_related("type").prefetch_related(_live_slots())
    )
    return Prefetch("nodes", Node.objects.prefetch_related(accelerators))


def _pool_map(pool: Pool) -> PoolMap:
    nodes = []
    count, used = 0, 0.0
    for node in pool.nodes.all():
        accelerators = list(node.accelerators.all())
        nodes.append(NodeCells(node, [_cell(one, node) for one in accelerators]))
        count += len(accelerators)
        used += sum(len(_held(one)) / one.slots for one in accelerators)
    return PoolMap(pool=pool, nodes=nodes, accelerators=count, used=used)


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
