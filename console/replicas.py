"""Replicas on chips, as a deployment's page draws them: node by node, each with what it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils.translation import gettext as _

from chips.models import Node
from console import statuses
from console.statuses import Look
from console.traffic import Load
from deployments.choices import TERMINAL, ReplicaStatus
from deployments.models import Deployment, Replica

MOST_LOGS = 8
FOLLOW_SECONDS = 2
MOST_SLOTS = 8  # drawn one by one; of more, the number alone is told


@dataclass(frozen=True)
class Chip:
    """One accelerator of which the replica holds slots, or all of them."""

    text: str
    slots: list[bool] = field(default_factory=list)  # held ones are True; empty: a whole one


@dataclass(frozen=True)
class Card:
    """One replica: how it is, what it holds, what it does."""

    replica: Replica
    look: Look
    chips: list[Chip]
    load: Load | None  # None: nobody knows
    reason: str  # why it is as it is, as a heading; empty where the status says it all

    @property
    def short_name(self) -> str:
        return str(self.replica.pk)[-6:]


@dataclass(frozen=True)
class Place:
    """A node with the deployment's replicas on it; without a node, those that wait for one."""

    node: Node | None
    cards: list[Card]


def draw(replicas: Sequence[Replica], *, load: dict[UUID, Load] | None) -> list[Place]:
    """Live replicas by node, in the order of names; those that wait come last.

    `replicas` come with node, variant and `allocation.held_slots`; `load` is None where it cannot
    be read.
    """
    places: dict[UUID | None, Place] = {}
    for replica in sorted(replicas, key=lambda one: (one.created_at, one.pk)):
        if replica.status in TERMINAL:
            continue
        node = replica.node
        place = places.setdefault(node.pk if node is not None else None, Place(node, []))
        place.cards.append(_card(replica, load))
    return sorted(
        places.values(),
        key=lambda place: (place.node is None, place.node.name if place.node else ""),
    )


def _card(replica: Replica, load: dict[UUID, Load] | None) -> Card:
    return Card(
        replica=replica,
        look=statuses.look_of(replica.status),
        chips=_chips(replica),
        load=None if load is None else load.get(replica.pk, Load()),
        reason=statuses.reason_word(replica.status_reason) if replica.message else "",
    )


def _chips(replica: Replica) -> list[Chip]:
    if replica.allocation is None:
        return []
    held: dict[UUID, list[int]] = {}
    accelerators = {}
    for slot in replica.allocation.held_slots:  # type: ignore[attr-defined]
        accelerators[slot.accelerator_id] = slot.accelerator
        held.setdefault(slot.accelerator_id, []).append(slot.slot)
    chips = []
    for accelerator in sorted(accelerators.values(), key=lambda one: one.index):
        slots = held[accelerator.pk]
        name = f"{accelerator.type} {accelerator.index}"
        if len(slots) == accelerator.slots:
            chips.append(Chip(name))
            continue
        text = _("%(name)s: %(held)s of %(slots)s slots") % {
            "name": name,
            "held": len(slots),
            "slots": accelerator.slots,
        }
        drawn = range(accelerator.slots) if accelerator.slots <= MOST_SLOTS else ()
        chips.append(Chip(text, [number in slots for number in drawn]))
    return chips


def logs(deployment: Deployment, replicas: Sequence[Replica], *, asked: str = "") -> dict[str, Any]:
    """What _log.html shows. A replica that has ended writes no more: its log is not asked for
    again."""
    begun = [one for one in replicas if one.placed_at or one.log_tail or one.node_id]
    begun.sort(key=_interest)
    chosen = next((one for one in begun if str(one.pk) == asked), begun[0] if begun else None)
    shown = begun[:MOST_LOGS]
    if chosen is not None and chosen not in shown:
        shown.append(chosen)
    return {
        "log_url": reverse("console:deployment_logs", args=[deployment.pk]),
        "log_replicas": shown,
        "chosen": chosen,
        "log_seconds": 0 if chosen is None or chosen.status in TERMINAL else FOLLOW_SECONDS,
    }


def _interest(replica: Replica) -> tuple[int, float]:
    """What starts or fails before what runs, what runs before what has ended; the newest first."""
    order: list[str] = [ReplicaStatus.STARTING, ReplicaStatus.DRAINING, ReplicaStatus.READY]
    rank = order.index(replica.status) if replica.status in order else len(order)
    return rank, -replica.created_at.timestamp()
