"""What is deployed, for people and for gateways."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Case, Count, IntegerField, OuterRef, QuerySet, Subquery, When
from django.db.models.functions import Coalesce

from accounts.models import Organization
from chips.choices import Purpose
from chips.models import AllocatedSlot
from common.errors import NotFound
from deployments import outside_targets, side_routes
from deployments.choices import (
    ROLLOUT_ACTIVE,
    ROLLOUT_OPEN,
    AttachmentStatus,
    DeploymentStatus,
    ReplicaStatus,
)
from deployments.models import (
    Attachment,
    Deployment,
    LoadTest,
    Replica,
    ReplicaEvent,
    Rollout,
    RolloutEvent,
    Route,
    ScalingEvent,
)
from models_registry.choices import RevisionKind
from models_registry.models import Revision


@dataclass(frozen=True, slots=True)
class ReadyReplica:
    """An engine that answers. Its bearer token is `planning.replica_token(id)`."""

    id: UUID
    address: str
    port: int
    variant_id: UUID


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A deployment behind a route, or while a rollout moves traffic one of its two variants.

    `replicas` is empty while none is ready: answer 503, not 404.
    """

    deployment_id: UUID
    deployment_name: str  # the `model` that its engines answer to
    revision_id: UUID
    revision_name: str  # organization/model:number
    weight: float  # the route's, times the variant's share
    status: str
    message: str  # for people: why it is not ready
    scales: bool  # with demand: a replica comes when requests wait
    is_asleep: bool  # scales, and none is wanted at present
    is_coming: bool  # a replica is wanted, and nothing but time stands in its way
    max_concurrency: int  # sequences that one replica decodes together
    replicas: tuple[ReadyReplica, ...]
    variant_id: UUID | None = None  # None while none is ready
    rank: int = 0


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A public model name of an organization and what answers it."""

    organization_id: UUID
    organization_slug: str
    name: str
    created_at: datetime
    targets: tuple[TargetRow, ...]
    outside: tuple[outside_targets.OutsideRow, ...] = ()
    shadow: TargetRow | None = None  # its weight: percent of the requests


ROUTE_FIELDS = ("organization_id", "organization__slug", "name", "created_at")


def _target_fields(deployment: str, weight: str) -> tuple[str, ...]:
    return (
        f"{deployment}_id",
        f"{deployment}__name",
        f"{deployment}__revision_id",
        f"{deployment}__revision__number",
        f"{deployment}__revision__registered_model__name",
        f"{deployment}__revision__registered_model__organization__slug",
        weight,
        f"{deployment}__status",
        f"{deployment}__message",
        # Of its own replicas, then of its host's.
        *(
            f"{deployment}__{bearer}{name}"
            for bearer in ("", "host__")
            for name in (
                "settings",
                "status_reason",
                "desired_replicas",
                "autoscaling__enabled",
            )
        ),
        f"{deployment}__host__status",
        f"{deployment}__host_id",
    )


TARGET_FIELDS = (*_target_fields("targets__deployment", "targets__weight"), "targets__rank")
SHADOW_FIELDS = _target_fields("shadow_deployment", "shadow_percent")
# Of a deployment whose replicas are on their way; others wait for hardware, or for a person.
COMING = {"starting", "starting_again", "all_ready"}


def get_routing_table() -> list[RouteRow]:
    """Every route of every organization, with the replicas that are ready now: five queries.

    Plain values instead of rows: every gateway asks for it whenever anything changes.
    """
    ready = list_ready_replicas()
    rollouts = _list_moving_rollouts()
    outside = outside_targets.list_outside()
    shadows = _list_shadows(ready)
    rows = Route.objects.order_by("organization__slug", "name", "targets__rank", "targets__id")
    found: dict[tuple[UUID, str], tuple[datetime, str, list[TargetRow]]] = {}
    for organization_id, slug, name, created_at, *target, rank in rows.values_list(
        *ROUTE_FIELDS, *TARGET_FIELDS
    ):
        _, _, targets = found.setdefault((organization_id, name), (created_at, slug, []))
        if target[0] is not None:
            row = replace(_target_row(target, tuple(ready.get(target[0], ()))), rank=rank)
            bearer_id = target[-1] or row.deployment_id
            targets.extend(_split(row, rollouts.get(bearer_id)))
            for side, one in side_routes.list_sides([row], rollouts):
                found[organization_id, side] = (created_at, slug, [one])
    return [
        RouteRow(
            organization_id=organization_id,
            organization_slug=slug,
            name=name,
            created_at=created_at,
            targets=tuple(targets),
            outside=tuple(outside.get((organization_id, name), ())),
            shadow=shadows.get((organization_id, name)),
        )
        for (organization_id, name), (created_at, slug, targets) in found.items()
    ]


def _list_shadows(ready: dict[UUID, list[ReadyReplica]]) -> dict[tuple[UUID, str], TargetRow]:
    rows = Route.objects.filter(shadow_deployment__isnull=False, shadow_percent__gt=0).order_by()
    return {
        (organization_id, name): _target_row(values, tuple(ready.get(values[0], ())))
        for organization_id, name, *values in rows.values_list(
            "organization_id", "name", *SHADOW_FIELDS
        )
    }


def list_ready_replicas() -> dict[UUID, list[ReadyReplica]]:
    """By deployment id: the replicas that answered a real completion, still live and shall stay.
    Those of an adapter are the ones that have it loaded, whoever's they are."""
    rows = Replica.objects.filter(status=ReplicaStatus.READY, port__isnull=False, wanted=True)
    whole = rows.exclude(revision__kind=RevisionKind.ADAPTER)
    attached = rows.filter(attachments__status=AttachmentStatus.ATTACHED)
    more = ("id", "address", "port", "variant_id")
    found: dict[UUID, list[ReadyReplica]] = defaultdict(list)
    both = whole.values_list("deployment_id", *more).union(
        attached.values_list("attachments__deployment_id", *more), all=True
    )
    for deployment_id, pk, address, port, variant_id in both:
        replica = ReadyReplica(id=pk, address=address, port=port or 0, variant_id=variant_id)
        found[deployment_id].append(replica)
    return dict(found)


def _list_moving_rollouts() -> dict[UUID, Rollout]:
    """By deployment id: those that have two variants running."""
    rows = Rollout.objects.filter(status__in=ROLLOUT_ACTIVE)
    rows = rows.select_related("deployment", "to_variant__revision__registered_model__organization")
    return {row.deployment_id: row for row in rows}


def _split(row: TargetRow, rollout: Rollout | None) -> list[TargetRow]:
    """The target as it is, or its two variants with their shares. `rollout` is its own, or of the
    host that serves it. A variant that has no ready replica leaves its share to the other, so that
    other targets of the route get no more than theirs."""
    if rollout is None:
        return [row]
    variant = rollout.to_variant
    new = tuple(each for each in row.replicas if each.variant_id == variant.pk)
    old = tuple(each for each in row.replicas if each.variant_id != variant.pk)
    if not new:
        return [row]
    if (
        side_routes.awaits_gate(rollout) and not rollout.weight
    ):  # not even where no old one is ready
        return [replace(row, replicas=old, variant_id=old[0].variant_id if old else None)]
    share = rollout.weight / 100 if old else 1.0
    sides = []
    if share < 1:
        left = row.weight * (1 - share)
        sides.append(replace(row, weight=left, replicas=old, variant_id=old[0].variant_id))
    if share:
        side = replace(
            row,
            weight=row.weight * share,
            max_concurrency=_concurrency(variant.settings),
            replicas=new,
            variant_id=variant.pk,
        )
        if rollout.deployment_id == row.deployment_id:  # an adapter's revision is its own
            revision = variant.revision
            side = replace(side, revision_id=revision.pk, revision_name=str(revision))
        sides.append(side)
    return sides


def _target_row(values: Sequence[Any], replicas: tuple[ReadyReplica, ...]) -> TargetRow:
    """`values` as TARGET_FIELDS name them."""
    deployment_id, name, revision_id, number, model, owner, weight, status, message = values[:9]
    settings, reason, desired, is_autoscaled = values[9:13]
    has_failed = status == DeploymentStatus.FAILED
    if (host_status := values[17]) is not None:  # an adapter comes and goes with its host
        settings, reason, desired, is_autoscaled = values[13:17]
        has_failed = has_failed or host_status == DeploymentStatus.FAILED
    scales = bool(is_autoscaled) and not has_failed
    return TargetRow(
        deployment_id=deployment_id,
        deployment_name=name,
        revision_id=revision_id,
        revision_name=f"{owner}/{model}:{number}",
        weight=weight,
        status=status,
        message=message,
        scales=scales,
        is_asleep=scales and desired == 0,
        is_coming=desired > 0 and not has_failed and reason in COMING,
        max_concurrency=_concurrency(settings),
        replicas=replicas,
        variant_id=replicas[0].variant_id if replicas else None,
    )


def _concurrency(settings: dict[str, Any]) -> int:
    return int(settings.get("max_concurrency", 16))


def list_deployments(organization: Organization) -> QuerySet[Deployment]:
    """The organization's deployments that are not deleted, newest first."""
    rows = Deployment.objects.of(organization).filter(deleted_at__isnull=True)
    rollouts = Rollout.objects.filter(deployment=OuterRef("pk"), status__in=ROLLOUT_OPEN)
    newest = Subquery(rollouts.order_by("-number").values("pk")[:1])
    rows = rows.annotate(ready_replicas=ready_replicas(), open_rollout=newest)
    rows = rows.order_by("-created_at")
    return rows.select_related("revision__registered_model__organization", "host")


def ready_replicas() -> Case:
    """Of deployments: how many replicas answer for each; an adapter's are those that have it
    loaded, whoever's they are."""
    own = Replica.objects.filter(deployment=OuterRef("pk"), status=ReplicaStatus.READY)
    attached = Attachment.objects.filter(
        deployment=OuterRef("pk"),
        status=AttachmentStatus.ATTACHED,
        replica__status=ReplicaStatus.READY,
    )
    return Case(
        When(revision__kind=RevisionKind.ADAPTER, then=_count(attached)), default=_count(own)
    )


def _count(rows: QuerySet[Any]) -> Coalesce:
    counted = rows.order_by().values("deployment").annotate(n=Count("pk")).values("n")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


def count_serving(deployment: Deployment) -> int:
    """How many replicas answer for the deployment now."""
    rows = Deployment.objects.filter(pk=deployment.pk)
    counted: int = rows.values_list(ready_replicas(), flat=True).get()
    return counted


def list_guests(host: Deployment) -> QuerySet[Deployment]:
    """The deployments of adapters that are served on this one's replicas, by name."""
    rows = list_deployments(host.organization).filter(host=host, deleted_at__isnull=True)
    return rows.order_by("name")


def get_deployment(organization: Organization, deployment_id: UUID) -> Deployment:
    """One deployment, deleted ones included: statements speak of them. Raises NotFound."""
    rows = Deployment.objects.of(organization)
    rows = rows.select_related("revision__registered_model__organization", "host")
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


def list_rollouts(deployment: Deployment) -> QuerySet[Rollout]:
    """All changes of what it runs, newest first."""
    return _rollouts().filter(deployment=deployment).order_by("-number")


def get_rollout(organization: Organization, rollout_id: UUID) -> Rollout:
    """Raises NotFound."""
    rows = _rollouts().filter(deployment__organization=organization)
    rollout = rows.filter(pk=rollout_id).first()
    if rollout is None:
        raise NotFound("No such rollout.")
    return rollout


def get_open_rollout(deployment: Deployment) -> Rollout | None:
    """The one under way; the newest of those asked for where another has to go first."""
    rows = list_rollouts(deployment).filter(status__in=ROLLOUT_OPEN)
    return rows.first()


def list_rollout_events(rollout: Rollout) -> QuerySet[RolloutEvent]:
    """What happened to it, newest first."""
    return RolloutEvent.objects.filter(rollout=rollout).order_by("-at", "-id")


def _rollouts() -> QuerySet[Rollout]:
    revision = "revision__registered_model__organization"
    return Rollout.objects.select_related(
        "deployment", f"to_variant__{revision}", f"from_variant__{revision}"
    )


def get_load_test(organization: Organization, load_test_id: UUID) -> LoadTest:
    """One load test, also after its deployment was deleted. Raises NotFound."""
    test = LoadTest.objects.of(organization).filter(pk=load_test_id).first()
    if test is None:
        raise NotFound("No such load test.")
    return test


def list_scaling_events(deployment: Deployment) -> QuerySet[ScalingEvent]:
    """When the wanted number of replicas changed, newest first."""
    return ScalingEvent.objects.filter(deployment=deployment).order_by("-at", "-id")


def list_training_accelerators(revision: Revision) -> frozenset[UUID]:
    """The accelerators that the training run behind a revision held; empty if none made it."""
    run_id = revision.lineage.get("training_run", {}).get("id")
    if not run_id:
        return frozenset()
    slots = AllocatedSlot.objects.filter(
        allocation__purpose=Purpose.TRAINING, allocation__holder_id=run_id
    )
    return frozenset(slots.values_list("accelerator_id", flat=True))
