"""Adapters on running engines: the agent's part, and what it means for their deployments."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from common import jobs
from common.errors import DomainError
from deployments import adapters, notify, planning
from deployments.choices import AttachmentStatus, DeploymentStatus, ReplicaStatus
from deployments.models import Attachment, Deployment, Replica
from engines.host import AdapterRefused, EngineHost, EngineSilent
from models_registry import cache

logger = logging.getLogger(__name__)
S = ReplicaStatus
A = AttachmentStatus
D = DeploymentStatus
UNROUTE = timedelta(seconds=1)  # what gateways get to hear that an adapter is no longer served
LONGEST_PAUSE_SECONDS = 60.0


def list_attached(node_id: UUID) -> QuerySet[Replica]:
    """Ready replicas with adapters: what their engines really have is looked at now and then."""
    return adapters.list_ready(node_id).filter(attachments__isnull=False).distinct()


def attach_adapters(replica_id: UUID, *, host: EngineHost, now: datetime) -> bool:
    """Make the engine's adapters those that are wanted of it, and write down how they stand.

    Looks at the engine first: what it has lost it gets again. True if anything changed.
    """
    rows = Replica.objects.filter(status=S.READY, wanted=True).select_related("node", "revision")
    replica = rows.filter(pk=replica_id).first()
    if replica is None or replica.node is None:
        return False
    wanted = {wish.deployment.name: wish for wish in adapters.list_wanted(replica)}
    known = {row.deployment_id: row for row in Attachment.objects.filter(replica=replica)}
    if not wanted and not known:
        return False
    try:
        loaded = host.list_adapters(str(replica.pk))
        changed = _detach(replica, wanted, loaded, host=host, now=now)
        root = planning.weights_folder(replica.node.name)
        for name, wish in wanted.items():
            folder = root / "revisions" / wish.revision.commit
            if loaded.get(name) == str(folder):
                changed |= _write(replica, wish, now=now)
            elif not _is_paused(known.get(wish.deployment.pk), wish, now):
                refusal = _load(replica, wish, root, host=host)
                changed |= _write(replica, wish, refusal=refusal, now=now)
    except EngineSilent as error:
        logger.warning("adapters of %s wait: %s", replica, error)
        return False
    return changed


def _detach(
    replica: Replica,
    wanted: Mapping[str, adapters.Wish],
    loaded: dict[str, str],
    *,
    host: EngineHost,
    now: datetime,
) -> bool:
    """Unload what is not wanted, once no gateway sends requests for it any more."""
    rows = Attachment.objects.filter(replica=replica).select_related("deployment")
    gone = [row for row in rows if row.deployment.name not in wanted]
    waiting = set()
    for row in gone:
        asked_at = row.deployment.delete_requested_at
        if asked_at is not None and now - asked_at < UNROUTE:
            waiting.add(row.deployment.name)
    for name in loaded:
        if name not in wanted and name not in waiting:
            host.unload_adapter(str(replica.pk), adapter_name=name)
    done = [row for row in gone if row.deployment.name not in waiting]
    for row in done:
        with transaction.atomic():
            row.delete()
            jobs.enqueue("deployments.reconcile", deployment_id=str(row.deployment_id))
            notify.routes_changed()
    return bool(done)


def _is_paused(row: Attachment | None, wish: adapters.Wish, now: datetime) -> bool:
    """Whether the engine refused this very revision a moment ago."""
    if row is None or row.status != A.FAILED or row.revision_id != wish.revision.pk:
        return False
    return row.next_try_at is not None and row.next_try_at > now


def _load(replica: Replica, wish: adapters.Wish, root: Path, *, host: EngineHost) -> str:
    """Fetch the files and have the engine load them; why not, if it will not. Slow."""
    try:
        folder = cache.materialize(wish.revision, root=root)
        name = wish.deployment.name
        host.load_adapter(str(replica.pk), adapter_name=name, folder=str(folder))
    except DomainError as error:
        return f"{error.message} {error.remedy}".strip()
    except AdapterRefused as error:
        return str(error)
    except OSError as error:
        return f"Its files could not be fetched: {error}"
    return ""


def _write(replica: Replica, wish: adapters.Wish, *, refusal: str = "", now: datetime) -> bool:
    """The adapter is loaded, or was refused; true if that is news."""
    status = A.FAILED if refusal else A.ATTACHED
    with transaction.atomic():
        current = Replica.objects.select_for_update(no_key=True).get(pk=replica.pk)
        if current.status != S.READY:
            return False
        row, is_new = Attachment.objects.get_or_create(
            replica=replica,
            deployment=wish.deployment,
            defaults={"revision": wish.revision, "status": status, "created_at": now}
            | {"status_changed_at": now},
        )
        as_it_was = row.status == status and row.revision_id == wish.revision.pk
        if as_it_was and not is_new and not refusal:
            return False
        row.transition(status, now=now)
        row.revision, row.message = wish.revision, refusal
        row.failures = row.failures + 1 if refusal else 0
        pause = min(2.0**row.failures, LONGEST_PAUSE_SECONDS)
        row.next_try_at = now + timedelta(seconds=pause) if refusal else None
        row.save()
        jobs.enqueue("deployments.reconcile", deployment_id=str(wish.deployment.pk))
        notify.routes_changed()
    return True


def forget(replica: Replica) -> None:
    """The replica has ended, and every adapter on it with it. Inside a transaction."""
    rows = Attachment.objects.filter(replica=replica)
    for deployment_id in list(rows.values_list("deployment_id", flat=True)):
        jobs.enqueue("deployments.reconcile", deployment_id=str(deployment_id))
    rows.delete()


def count_serving(deployment: Deployment, replicas: Sequence[Replica]) -> int:
    """How many of these ready replicas have the deployment's adapter loaded."""
    rows = Attachment.objects.filter(deployment=deployment, status=A.ATTACHED)
    return rows.filter(replica__in=[replica.pk for replica in replicas]).count()


def list_loaded(replicas: Sequence[Replica]) -> dict[UUID, set[UUID]]:
    """By replica: the deployments of adapters that it answers for; those that are being deleted
    left out."""
    rows = Attachment.objects.filter(
        replica__in=[replica.pk for replica in replicas],
        status=A.ATTACHED,
        deployment__delete_requested_at__isnull=True,
    )
    found: dict[UUID, set[UUID]] = {}
    for replica_id, deployment_id in rows.values_list("replica", "deployment"):
        found.setdefault(replica_id, set()).add(deployment_id)
    return found


def find_refusal(replica_ids: Sequence[UUID]) -> str:
    """Why one of these replicas does not load an adapter, for people; empty if none says."""
    rows = Attachment.objects.filter(replica__in=replica_ids, status=A.FAILED)
    row = rows.exclude(message="").select_related("deployment").first()
    return (
        f"The adapter of {row.deployment} is not loaded: {row.message}" if row is not None else ""
    )


def observe(deployment: Deployment, host: Deployment) -> tuple[DeploymentStatus, str, str]:
    """Status, reason code and a sentence for people, of an adapter's deployment on its host."""
    rows = Attachment.objects.filter(deployment=deployment)
    if deployment.delete_requested_at is not None:
        if rows.exists():
            return D(deployment.status), "detaching", f"{host} finishes open requests for it."
        return D.DELETED, "deleted", ""
    ready = Replica.objects.filter(deployment=host, status=S.READY, wanted=True).count()
    on_ready = rows.filter(Q(replica__status=S.READY))
    attached = on_ready.filter(status=A.ATTACHED).count()
    failed = on_ready.filter(status=A.FAILED).exclude(message="").first()
    if attached and attached >= ready:
        return D.READY, "attached", ""
    if failed is not None:
        message = f"The engine of {host} does not load this adapter: {failed.message}"
        return (D.DEGRADED if attached else D.FAILED), "adapter_refused", message
    if attached:
        return D.DEGRADED, "attaching", f"Attached to {attached} of {ready} replicas of {host}."
    if ready:
        return D.PENDING, "attaching", f"It is being attached to {host}."
    if host.desired_replicas == 0 and adapters.is_alive(host):
        return (
            D.PENDING,
            "host_asleep",
            f"{host}, on whose replicas it is served, sleeps until a request comes.",
        )
    if host.desired_replicas == 0:
        message = f"{host}, on whose replicas it is served, has none. Scale {host} to serve it."
        return D.PENDING, "host_stopped", message
    message = f"{host}, on whose replicas it is served, is not ready. {host.message}".strip()
    return D.PENDING, "host_not_ready", message
