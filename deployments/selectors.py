"""What is deployed, for people and for gateways."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, QuerySet

from accounts.models import Organization
from chips.choices import Purpose
from chips.models import AllocatedSlot
from common.errors import NotFound
from deployments.choices import ReplicaStatus
from deployments.models import Deployment, Replica, ReplicaEvent, Route
from models_registry.models import Revision


@dataclass(frozen=True, slots=True)
class ReadyReplica:
    """An engine that answers. Its bearer token is `planning.replica_token(id)`."""

    id: UUID
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A deployment behind a route. `replicas` is empty while none is ready: answer 503, not 404."""

    deployment_id: UUID
    deployment_name: str  # the `model` that its engines answer to
    revision_id: UUID
    revision_name: str  # organization/model:number
    weight: int
    status: str
    message: str  # for people: why it is not ready
    max_concurrency: int  # sequences that one replica decodes together
    replicas: tuple[ReadyReplica, ...]


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A public model name of an organization and what answers it."""

    organization_id: UUID
    organization_slug: str
    name: str
    created_at: datetime
    targets: tuple[TargetRow, ...]


ROUTE_FIELDS = ("organization_id", "organization__slug", "name", "created_at")
TARGET_FIELDS = (
    "targets__deployment_id",
    "targets__deployment__name",
    "targets__deployment__revision_id",
    "targets__deployment__revision__number",
    "targets__deployment__revision__registered_model__name",
    "targets__deployment__revision__registered_model__organization__slug",
    "targets__weight",
    "targets__deployment__status",
    "targets__deployment__message",
    "targets__deployment__settings",
)


def get_routing_table() -> list[RouteRow]:
    """Every route of every organization, with the replicas that are ready now: two queries.

    Plain values instead of rows: every gateway asks for it whenever anything changes.
    """
    ready = list_ready_replicas()
    rows = Route.objects.order_by("organization__slug", "name", "targets__id")
    found: dict[tuple[UUID, str], tuple[datetime, str, list[TargetRow]]] = {}
    for organization_id, slug, name, created_at, *target in rows.values_list(
        *ROUTE_FIELDS, *TARGET_FIELDS
    ):
        _, _, targets = found.setdefault((organization_id, name), (created_at, slug, []))
        if target[0] is not None:
            targets.append(_target_row(target, tuple(ready.get(target[0], ()))))
    return [
        RouteRow(
            organization_id=organization_id,
            organization_slug=slug,
            name=name,
            created_at=created_at,
            targets=tuple(targets),
        )
        for (organization_id, name), (created_at, slug, targets) in found.items()
    ]


def list_ready_replicas() -> dict[UUID, list[ReadyReplica]]:
    """By deployment id: the replicas that answered a real completion and still live."""
    rows = Replica.objects.filter(status=ReplicaStatus.READY, port__isnull=False)
    found: dict[UUID, list[ReadyReplica]] = defaultdict(list)
    for deployment_id, pk, address, port in rows.values_list(
        "deployment_id", "id", "address", "port"
    ):
        found[deployment_id].append(ReadyReplica(id=pk, address=address, port=port or 0))
    return dict(found)


def _target_row(values: Sequence[Any], replicas: tuple[ReadyReplica, ...]) -> TargetRow:
    """`values` as TARGET_FIELDS name them."""
    deployment_id, name, revision_id, number, model, owner, weight, status, message, settings = (
        values
    )
    return TargetRow(
        deployment_id=deployment_id,
        deployment_name=name,
        revision_id=revision_id,
        revision_name=f"{owner}/{model}:{number}",
        weight=weight,
        status=status,
        message=message,
        max_concurrency=int(settings.get("max_concurrency", 16)),
        replicas=replicas,
    )


def list_deployments(organization: Organization) -> QuerySet[Deployment]:
    """The organization's deployments that are not deleted, newest first."""
    rows = Deployment.objects.of(organization).filter(deleted_at__isnull=True)
    ready = Count("replicas", filter=Q(replicas__status=ReplicaStatus.READY))
    rows = rows.annotate(ready_replicas=ready).order_by("-created_at")
    return rows.select_related("revision__registered_model__organization")


def get_deployment(organization: Organization, deployment_id: UUID) -> Deployment:
    """One deployment, deleted ones included: statements speak of them. Raises NotFound."""
    rows = Deployment.objects.of(organization)
    rows = rows.select_related("revision__registered_model__organization")
    deployment = rows.filter(pk=deployment_id).first()
    if deployment is None:
        raise NotFound("No such deployment.")
    return deployment


def list_replicas(deployment: Deployment) -> QuerySet[Replica]:
    """All replicas that the deployment ever had, newest first."""
    rows = Replica.objects.filter(deployment=deployment)
    rows = rows.select_related("deployment", "node", "allocation").order_by("-created_at")
    return rows.prefetch_related("allocation__slots__accelerator")


def list_events(deployment: Deployment) -> QuerySet[ReplicaEvent]:
    """What happened to its replicas, newest first."""
    rows = ReplicaEvent.objects.filter(replica__deployment=deployment)
    return rows.select_related("replica__deployment").order_by("-at", "-id")


def list_routes(organization: Organization) -> QuerySet[Route]:
    """The organization's public model names."""
    return Route.objects.of(organization).prefetch_related("targets__deployment")


def list_training_accelerators(revision: Revision) -> frozenset[UUID]:
    """The accelerators that the training run behind a revision held; empty if none made it."""
    run_id = revision.lineage.get("training_run", {}).get("id")
    if not run_id:
        return frozenset()
    slots = AllocatedSlot.objects.filter(
        allocation__purpose=Purpose.TRAINING, allocation__holder_id=run_id
    )
    return frozenset(slots.values_list("accelerator_id", flat=True))
