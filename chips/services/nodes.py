"""Nodes: they register, beat, fall silent, are cordoned."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts import audit
from chips.choices import AcceleratorStatus, NodeStatus
from chips.models import Accelerator, AcceleratorType, Node, Pool
from chips.services.accelerator_types import find_type
from common.errors import InvalidInput, NotFound

logger = logging.getLogger(__name__)

NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")
SUSPECT_AFTER = timedelta(seconds=15)
LOST_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class SeenAccelerator:
    """One device as a node's probe sees it now."""

    index: int  # as the driver counts, from 0
    device_id: str  # the driver's lasting id, or cpu:<first core>
    vendor: str = ""  # as accelerator types spell it; empty: any
    name: str  # as the driver reports it
    memory_bytes: int | None = None
    cores: tuple[int, ...] = ()
    is_healthy: bool = True
    message: str = ""


def register_node(
    *,
    pool_name: str,
    name: str,
    address: str,
    accelerators: list[SeenAccelerator],
    facts: Mapping[str, Any],
    now: datetime,
) -> Node:
    """The node's row, made or brought up to date: an agent calls this whenever it starts.

    Devices no longer seen become `gone` and keep their rows, for those who hold them. Devices of a
    type that nobody described are left out and named in `facts["unknown_accelerators"]`. Raises
    InvalidInput for a bad node name, an unknown pool, or if there are no accelerator types at all.
    """
    if not NODE_NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no node name.",
            field="name",
            remedy="Use letters, digits, dots, hyphens and underscores, at most 120.",
        )
    pool = Pool.objects.filter(name=pool_name).first()
    if pool is None:
        raise InvalidInput(
            f"There is no pool {pool_name}.",
            field="pool_name",
            remedy="Make it at /api/v1/pools/ or start the agent with --create-pool.",
        )
    if not AcceleratorType.objects.exists():
        raise InvalidInput(
            "No accelerator types are known.",
            field="accelerators",
            remedy="Run manage.py load_accelerator_types first.",
        )
    with transaction.atomic():
        _row, is_new = Node.objects.get_or_create(
            name=name, defaults={"pool": pool, "registered_at": now}
        )
        node = Node.objects.select_for_update(no_key=True).get(pk=_row.pk)
        node.pool, node.address, node.agent_started_at = pool, address, now
        node.save(update_fields=["pool", "address", "agent_started_at"])
        _take_in(node, accelerators, facts, now=now)
        if is_new:
            audit.record(
                organization=None,
                actor=audit.SYSTEM,
                action="node.register",
                object_id=node.pk,
                object_name=name,
                after={"pool": pool_name, "accelerators": len(accelerators)},
                now=now,
            )
    return node


@transaction.atomic
def record_heartbeat(
    *,
    node_id: UUID,
    accelerators: list[SeenAccelerator],
    facts: Mapping[str, Any],
    now: datetime,
) -> Node:
    """The node lives and sees these devices. Raises NotFound for a node that was removed."""
    rows = Node.objects.select_for_update(no_key=True).select_related(None)
    node = rows.filter(pk=node_id).first()
    if node is None:
        raise NotFound("No such node.", remedy="Register it again: restart its agent.")
    _take_in(node, accelerators, facts, now=now)
    return node


def watch_nodes(*, now: datetime) -> list[Node]:
    """Silent nodes become suspect after 15 s, lost after 60 s; returns those that changed.

    Nobody is evicted here: those who hold accelerators look at the node's status themselves.
    """
    silent = Node.objects.exclude(status=NodeStatus.LOST).filter(
        last_heartbeat_at__lt=now - SUSPECT_AFTER
    )
    changed = []
    for pk in silent.values_list("pk", flat=True):
        with transaction.atomic():
            node = Node.objects.select_for_update(no_key=True).filter(pk=pk).first()
            if node is not None and _age(node, now=now):
                changed.append(node)
    return changed


def cordon_node(
    *, node_id: UUID, reason: str = "", actor: audit.Actor = audit.SYSTEM, now: datetime
) -> Node:
    """Place nothing new on the node; what runs there goes on. Again changes only the reason."""
    return _set_cordon(node_id, at=now, reason=reason[:200], actor=actor, now=now)


def uncordon_node(*, node_id: UUID, actor: audit.Actor = audit.SYSTEM, now: datetime) -> Node:
    """Place on the node again. A node that is not cordoned stays as it is."""
    return _set_cordon(node_id, at=None, reason="", actor=actor, now=now)


def _age(node: Node, *, now: datetime) -> bool:
    silence = now - (node.last_heartbeat_at or node.registered_at)
    message = f"no heartbeat for {silence.total_seconds():.0f} s"
    if silence > LOST_AFTER:
        return node.transition(NodeStatus.LOST, now=now, reason="silent", message=message)
    if silence > SUSPECT_AFTER:
        return node.transition(
            NodeStatus.SUSPECT, now=now, reason="heartbeat_missed", message=message
        )
    return False


def _take_in(
    node: Node, seen: Iterable[SeenAccelerator], facts: Mapping[str, Any], *, now: datetime
) -> None:
    types = list(AcceleratorType.objects.only("slug", "vendor", "name_match", "slots"))
    known, unknown = [], []
    for each in seen:
        found = find_type(types, vendor=each.vendor, name=each.name)
        if found is None:
            unknown.append({"name": each.name, "device_id": each.device_id})
        else:
            known.append((each, found))
    _update_accelerators(node, known, now=now)
    node.facts = dict(facts) | ({"unknown_accelerators": unknown} if unknown else {})
    node.last_heartbeat_at = now
    node.save(update_fields=["facts", "last_heartbeat_at"])
    node.transition(NodeStatus.READY, now=now, reason="heartbeat")


def _update_accelerators(
    node: Node, seen: list[tuple[SeenAccelerator, AcceleratorType]], *, now: datetime
) -> None:
    rows = {row.device_id: row for row in Accelerator.objects.filter(node=node)}
    unchanged, new = [], []
    for each, its_type in seen:
        status = AcceleratorStatus.HEALTHY if each.is_healthy else AcceleratorStatus.UNHEALTHY
        values = {
            "type_id": its_type.pk,
            "index": each.index,
            "cores": sorted(each.cores),
            "memory_bytes": each.memory_bytes,
            "status": status,
            "message": each.message,
        }
        row = rows.pop(each.device_id, None)
        if row is None:
            new.append(
                Accelerator(
                    node=node,
                    device_id=each.device_id,
                    slots=its_type.slots,
                    last_seen_at=now,
                    **values,
                )
            )
        elif all(getattr(row, name) == value for name, value in values.items()):
            unchanged.append(row.pk)
        else:
            if row.status != status:
                logger.warning("%s is %s now: %s", row, status, each.message)
            Accelerator.objects.filter(pk=row.pk).update(last_seen_at=now, **values)
    Accelerator.objects.bulk_create(new)
    Accelerator.objects.filter(pk__in=unchanged).update(last_seen_at=now)
    gone = [row.pk for row in rows.values() if row.status != AcceleratorStatus.GONE]
    if gone:
        logger.warning("%s no longer reports %d accelerators", node, len(gone))
        message = "the node no longer reports it"
        Accelerator.objects.filter(pk__in=gone).update(
            status=AcceleratorStatus.GONE, message=message
        )


@transaction.atomic
def _set_cordon(
    node_id: UUID, *, at: datetime | None, reason: str, actor: audit.Actor, now: datetime
) -> Node:
    node = Node.objects.select_for_update(no_key=True).filter(pk=node_id).first()
    if node is None:
        raise NotFound("No such node.")
    before = {"cordoned": node.cordoned_at is not None, "reason": node.cordon_reason}
    after = {"cordoned": at is not None, "reason": reason}
    if before == after:
        return node
    node.cordoned_at = (node.cordoned_at or at) if at else None
    node.cordon_reason = reason
    node.save(update_fields=["cordoned_at", "cordon_reason"])
    audit.record(
        organization=None,
        actor=actor,
        action="node.cordon" if at else "node.uncordon",
        object_id=node.pk,
        object_name=node.name,
        before=before,
        after=after,
        now=now,
    )
    return node
