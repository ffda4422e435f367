"""Which adapters are wanted on which replicas.

A deployment whose revision is an adapter has no weights of its own to run: it is served by engines
that run its base. Either by those of its `host`, another deployment of the organization that serves
the same base, or, without a host, by replicas of its own, on which nothing else is offered.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Coalesce

from accounts.models import Organization
from deployments.choices import ROLLOUT_OPEN, AttachmentStatus, DeploymentStatus, ReplicaStatus
from deployments.models import Attachment, Autoscaling, Deployment, Replica, Rollout
from engines.host import ADAPTER_ENGINES
from models_registry.choices import RevisionKind
from models_registry.models import Revision

HOST_HAS_NONE = {"host_asleep", "host_stopped"}  # reasons: no replica of the host is even wanted


def is_adapter(revision: Revision) -> bool:
    return revision.kind == RevisionKind.ADAPTER


def base_of(revision: Revision) -> Revision:
    """The revision whose weights an engine loads to serve this one."""
    return revision.parent if is_adapter(revision) and revision.parent is not None else revision


def list_hosts(organization: Organization, adapter: Revision, *, engine: str) -> list[Deployment]:
    """Deployments that may serve the adapter besides what they serve, the best one first: ready
    before others, whole weights before adapters with replicas of their own, the oldest. One that is
    changing to another base or engine may not."""
    if engine not in ADAPTER_ENGINES:
        return []
    rows = Deployment.objects.of(organization).filter(
        Q(revision=adapter.parent_id)
        | Q(revision__kind=RevisionKind.ADAPTER, revision__parent=adapter.parent_id),
        host__isnull=True,
        engine=engine,
        delete_requested_at__isnull=True,
        deleted_at__isnull=True,
    )
    rows = rows.exclude(_is_leaving_base(adapter))
    found = rows.select_related("revision").order_by("created_at")
    return sorted(
        found,
        key=lambda row: (row.status != DeploymentStatus.READY, is_adapter(row.revision)),
    )


def _is_leaving_base(adapter: Revision) -> Exists:
    """Of deployments: a change to another base or engine is on its way."""
    rollouts = Rollout.objects.filter(deployment=OuterRef("pk"), status__in=ROLLOUT_OPEN)
    same = Q(to_variant__revision=adapter.parent_id) | Q(
        to_variant__revision__kind=RevisionKind.ADAPTER,
        to_variant__revision__parent=adapter.parent_id,
    )
    stays = same & Q(to_variant__engine=OuterRef("engine"))
    return Exists(rollouts.exclude(stays))


def is_alive(host: Deployment) -> bool:
    """Whether it has replicas, will have them, or starts them when a request comes."""
    if host.status == DeploymentStatus.FAILED:
        return False
    scaling = Autoscaling.objects.filter(deployment=host, enabled=True)
    return host.desired_replicas > 0 or scaling.exists()


def list_guests(host: Deployment) -> QuerySet[Deployment]:
    """Adapters that are served, or are to be served, on the deployment's replicas."""
    return host.guests.filter(deleted_at__isnull=True).order_by("created_at")


def list_guest_ids(host_ids: Iterable[UUID]) -> dict[UUID, list[UUID]]:
    """By host: the deployments of adapters that its replicas serve."""
    found: dict[UUID, list[UUID]] = {}
    rows = Deployment.objects.filter(host__in=list(host_ids), delete_requested_at__isnull=True)
    for host_id, pk in rows.values_list("host_id", "pk"):
        if host_id is not None:
            found.setdefault(host_id, []).append(pk)
    return found


def bearer_id(deployment_id: UUID) -> UUID:
    """The deployment whose replicas serve this one: its host, or itself."""
    rows = Deployment.objects.filter(pk=deployment_id).values_list("host_id", flat=True)
    return rows.first() or deployment_id


@dataclass(frozen=True)
class Wish:
    """An adapter that a replica's engine should have loaded."""

    deployment: Deployment
    revision: Revision


def list_wanted(replica: Replica) -> list[Wish]:
    """What the replica's engine should have loaded. A replica that was started for an adapter's own
    sake has the one it was started for, whatever its deployment has come to want since."""
    base = base_of(replica.revision)
    rows = _wanted(replica.deployment_id).select_related("revision").order_by("created_at")
    wishes = [
        Wish(row, replica.revision if row.pk == replica.deployment_id else row.revision)
        for row in rows
    ]
    return [wish for wish in wishes if wish.revision.parent_id == base.pk]


def _wanted(bearer: object) -> QuerySet[Deployment]:
    return Deployment.objects.filter(
        Q(host=bearer) | Q(pk=bearer),
        revision__kind=RevisionKind.ADAPTER,
        delete_requested_at__isnull=True,
    )


def list_ready(node_id: UUID) -> QuerySet[Replica]:
    """Replicas of the node that may have adapters loaded and unloaded."""
    return Replica.objects.filter(node=node_id, status=ReplicaStatus.READY, wanted=True)


def list_out_of_step(node_id: UUID, *, now: datetime) -> QuerySet[Replica]:
    """Ready replicas of the node that lack a wanted adapter, or have one that is not wanted."""
    rows = Attachment.objects.filter(replica=OuterRef("pk"))
    not_wanted = Q(deployment__delete_requested_at__isnull=False) | ~Q(
        replica__deployment=Coalesce(F("deployment__host"), F("deployment"))
    )
    settled = Attachment.objects.filter(
        Q(status=AttachmentStatus.ATTACHED, revision=OuterRef("revision"))
        | Q(status=AttachmentStatus.ATTACHED, revision=OuterRef(OuterRef("revision")))
        | Q(status=AttachmentStatus.FAILED, next_try_at__gt=now),
        replica=OuterRef(OuterRef("pk")),
        deployment=OuterRef("pk"),
    )
    lacking = _wanted(OuterRef("deployment")).filter(~Exists(settled))
    return list_ready(node_id).filter(Exists(rows.filter(not_wanted)) | Exists(lacking))


def is_out_of_step() -> Q:
    """Of deployments: an adapter that a ready replica lacks, or whose status has not followed."""
    bearer = Coalesce(OuterRef("host"), OuterRef("pk"))
    attached = Attachment.objects.filter(
        status=AttachmentStatus.ATTACHED,
        replica__status=ReplicaStatus.READY,
        deployment=OuterRef("pk"),
    )
    here = Attachment.objects.filter(
        status=AttachmentStatus.ATTACHED,
        replica=OuterRef("pk"),
        deployment=OuterRef(OuterRef("pk")),
    )
    ready = Replica.objects.filter(deployment=bearer, status=ReplicaStatus.READY, wanted=True)
    at_rest = Q(status_reason__in=HOST_HAS_NONE, host__desired_replicas=0)
    unsettled = (
        ~Q(observed_generation=F("generation"))
        | Q(delete_requested_at__isnull=False)
        | ~at_rest & (~Q(status=DeploymentStatus.READY) | ~Exists(attached))
    )
    return Q(revision__kind=RevisionKind.ADAPTER) & (
        Q(host__isnull=False) & unsettled | Exists(ready.filter(~Exists(here)))
    )
