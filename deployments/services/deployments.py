"""Making, scaling and deleting deployments."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from accounts import audit
from accounts.models import Organization
from common import jobs
from common.errors import DomainError, NotFound
from deployments import notify
from deployments.choices import DeploymentStatus
from deployments.models import Autoscaling, Deployment, Route, RouteTarget, ScalingEvent
from deployments.services import checks, guests
from deployments.variants import Content
from models_registry.models import Revision


class NameTaken(DomainError):
    code = "name_taken"


class DeploymentIsDeleting(DomainError):
    code = "deployment_is_deleting"


def create_deployment(
    *,
    organization: Organization,
    name: str,
    revision_id: UUID,
    engine: str = "transformers",
    replicas: int = 1,
    slots_per_replica: int = 1,
    accelerators_per_replica: int = 0,
    pool_name: str = "",
    settings: dict[str, Any] | None = None,
    host_id: UUID | None = None,
    own_replicas: bool = False,
    is_result: bool = False,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Deployment:
    """Want a revision served under a public name; also makes the route of that name.

    An adapter is served on the replicas of the deployment `host_id`, or else of one that serves its
    base already, or else, and with `own_replicas` in any case, on replicas of its own. `is_result`:
    the name may be that of a fine-tuned model, which nobody gives by hand. Raises NotFound
    (revision), InvalidInput by field, NotServable, NameTaken.
    """
    checks.check_name(name, is_result=is_result)
    checks.check_replicas(replicas)
    content = Content(
        revision_id=revision_id,
        engine=engine,
        slots_per_replica=slots_per_replica,
        accelerators_per_replica=accelerators_per_replica,
        pool_name=pool_name,
        settings=settings or {},
    )
    revision = get_revision(organization, revision_id)
    checks.check_content(content, revision)
    try:
        with transaction.atomic():
            host = guests.choose_host(
                organization, revision, engine=engine, host_id=host_id, own_replicas=own_replicas
            )
            if host is not None:
                engine, replicas = host.engine, 0
            deployment = Deployment.objects.create(
                organization=organization,
                name=name,
                revision=revision,
                engine=engine,
                host=host,
                desired_replicas=replicas,
                slots_per_replica=slots_per_replica,
                accelerators_per_replica=accelerators_per_replica,
                pool_name=pool_name,
                settings=settings or {},
                created_at=now,
                status_changed_at=now,
            )
            route = Route.objects.create(organization=organization, name=name, created_at=now)
            RouteTarget.objects.create(route=route, deployment=deployment, weight=100)
            audit.record(
                organization=organization,
                actor=actor,
                action="deployment.create",
                object_id=deployment.pk,
                object_name=name,
                after={"revision": str(revision), "engine": engine, "replicas": replicas}
                | ({"host": str(host)} if host is not None else {}),
                now=now,
            )
            jobs.enqueue("deployments.reconcile", deployment_id=str(deployment.pk))
            if host is not None:
                guests.attach_soon(host)
            notify.routes_changed()
    except IntegrityError as error:
        raise NameTaken(
            f"There is a deployment named {name}, or one that is still being deleted.",
            field="name",
            remedy="Choose another name, or wait until the old one is gone.",
        ) from error
    return deployment


def get_revision(organization: Organization, revision_id: UUID) -> Revision:
    """Raises NotFound."""
    revision = Revision.objects.of(organization).filter(pk=revision_id).first()
    if revision is None:
        raise NotFound("No such revision.", field="revision_id")
    return revision


@transaction.atomic
def scale_deployment(
    *,
    organization: Organization,
    deployment_id: UUID,
    replicas: int,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Deployment:
    """Record how many replicas are wanted; the reconciler does the rest.

    On a deployment that gave up after failures, even the same number starts it anew. Another
    number is a person's word: it ends autoscaling, until that is switched on again. Raises
    NotFound, InvalidInput, DeploymentIsDeleting, ServedByHost.
    """
    checks.check_replicas(replicas)
    deployment = take(organization, deployment_id)
    if deployment.delete_requested_at is not None:
        raise DeploymentIsDeleting(f"{deployment} is being deleted.")
    guests.refuse_for_guest(deployment)
    before = deployment.desired_replicas
    if before == replicas and not deployment.failures:
        return deployment
    deployment.failures, deployment.next_start_at = 0, None
    deployment.save(update_fields=["failures", "next_start_at"])
    message = f"{before} -> {replicas}: by {actor.name}"
    if before != replicas and Autoscaling.objects.filter(deployment=deployment).update(
        enabled=False
    ):
        message += "; autoscaling is off until it is switched on again"
    want_replicas(deployment, replicas, reason="asked", message=message, now=now)
    audit.record(
        organization=organization,
        actor=actor,
        action="deployment.scale",
        object_id=deployment.pk,
        object_name=deployment.name,
        before={"replicas": before},
        after={"replicas": replicas},
        now=now,
    )
    return deployment


def want_replicas(
    deployment: Deployment, replicas: int, *, reason: str, message: str, now: datetime
) -> None:
    """Write down, on the locked deployment, how many replicas are wanted from now on and why."""
    if deployment.desired_replicas != replicas:
        ScalingEvent.objects.create(
            deployment=deployment,
            at=now,
            from_replicas=deployment.desired_replicas,
            to_replicas=replicas,
            reason=reason,
            message=message,
        )
    deployment.desired_replicas = replicas
    deployment.generation += 1
    if not replicas:  # whatever is wanted later begins anew
        deployment.failures, deployment.next_start_at = 0, None
    deployment.save(update_fields=["desired_replicas", "generation", "failures", "next_start_at"])
    jobs.enqueue("deployments.reconcile", deployment_id=str(deployment.pk))
    notify.routes_changed()  # gateways know by it whether to wait for a replica


@transaction.atomic
def delete_deployment(
    *,
    organization: Organization,
    deployment_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Deployment:
    """Stop answering now, then drain and stop every replica; the row stays for statements.

    Deleting twice changes nothing. Raises NotFound, HostInUse.
    """
    deployment = take(organization, deployment_id)
    if deployment.delete_requested_at is not None:
        return deployment
    guests.refuse_for_host(deployment, what="be deleted")
    deployment.delete_requested_at = now
    deployment.desired_replicas = 0
    deployment.generation += 1
    deployment.save(update_fields=["delete_requested_at", "desired_replicas", "generation"])
    RouteTarget.objects.filter(deployment=deployment).delete()
    shadowed = Route.objects.of(organization).filter(shadow_deployment=deployment)
    shadowed.update(shadow_deployment=None, shadow_percent=0)
    Route.objects.of(organization).filter(targets__isnull=True).delete()
    audit.record(
        organization=organization,
        actor=actor,
        action="deployment.delete",
        object_id=deployment.pk,
        object_name=deployment.name,
        now=now,
    )
    jobs.enqueue("deployments.reconcile", deployment_id=str(deployment.pk))
    notify.routes_changed()
    return deployment


def take(organization: Organization, deployment_id: UUID) -> Deployment:
    """The deployment, locked until the transaction ends. Raises NotFound."""
    rows = Deployment.objects.of(organization).select_for_update(no_key=True, of=("self",))
    deployment = rows.filter(pk=deployment_id).exclude(status=DeploymentStatus.DELETED).first()
    if deployment is None:
        raise NotFound("No such deployment.")
    return deployment
