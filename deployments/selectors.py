"""What is deployed, for people and for gateways."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Count, Prefetch, Q, QuerySet

from accounts.models import Organization
from chips.choices import Purpose
from chips.models import AllocatedSlot
from common.errors import NotFound
from deployments.choices import ReplicaStatus
from deployments.models import Deployment, Replica, ReplicaEvent, Route, RouteTarget
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


def get_routing_table() -> list[RouteRow]:
    """Every route of every organization, with the replicas that are ready now: three queries."""
    ready = list_ready_replicas()
    targets = RouteTarget.objects.select_related(
        "deployment__revision__registered_model__organization"
    )
    routes = Route.objects.select_related("organization").prefetch_related(
        Prefetch("targets", queryset=targets)
    )
    return [
        RouteRow(
            organization_id=route.organization_id,
            organization_slug=route.organization.slug,
            name=route.name,
            created_at=route.created_at,
            targets=tuple(
                _target_row(target, tuple(ready.get(target.deployment_id, ())))
                for target in route.targets.all()
            ),
        )
        for route in routes
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


def _target_row(target: RouteTarget, replicas: tuple[ReadyReplica, ...]) -> TargetRow:
    deployment = target.deployment
    return TargetRow(
        deployment_id=deployment.pk,
        deployment_name=deployment.name,
        revision_id=deployment.revision_id,
        revision_name=str(deployment.revision),
        weight=target.weight,
        status=deployment.status,
        message=deployment.message,
        max_concurrency=int(deployment.settings.get("max_concurrency", 16)),
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
