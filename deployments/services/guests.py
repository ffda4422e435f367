"""Adapters served on another deployment's replicas: choosing the host, and what it may not do."""

from dataclasses import replace
from uuid import UUID

from accounts.models import Organization
from common import jobs
from common.errors import DomainError, InvalidInput, NotFound
from deployments import adapters
from deployments.choices import ReplicaStatus
from deployments.models import Deployment, Replica
from deployments.variants import Content
from models_registry.models import Revision

MESSAGE_EXPIRES_SECONDS = 60.0


class ServedByHost(DomainError):
    """An adapter on a host has no replicas of its own to do this with."""

    code = "served_by_host"


class HostInUse(DomainError):
    """Adapters are served on this deployment's replicas."""

    code = "host_in_use"


def choose_host(
    organization: Organization,
    revision: Revision,
    *,
    engine: str,
    host_id: UUID | None,
    own_replicas: bool,
) -> Deployment | None:
    """The deployment whose replicas shall serve the revision, locked; None: replicas of its own.

    `host_id` names it; otherwise the best one that there is. Raises NotFound, InvalidInput.
    """
    if host_id is not None and (own_replicas or not adapters.is_adapter(revision)):
        raise InvalidInput(
            "Only an adapter without replicas of its own is served on a host.",
            field="host",
            remedy="Leave it out.",
        )
    if own_replicas or not adapters.is_adapter(revision):
        return None
    if host_id is not None:
        able = [_named(organization, revision, host_id)]
    else:
        hosts = adapters.list_hosts(organization, revision, engine=engine)
        able = [host for host in hosts if adapters.is_alive(host)]
    for found in able:
        rows = Deployment.objects.select_for_update(no_key=True, of=("self",))
        host = rows.filter(pk=found.pk).first()
        # As it is now: what it serves, or is to serve, may have changed before it was locked.
        if host in adapters.list_hosts(organization, revision, engine=found.engine):
            return host
    return None


def _named(organization: Organization, revision: Revision, host_id: UUID) -> Deployment:
    host = Deployment.objects.of(organization).filter(pk=host_id, deleted_at__isnull=True).first()
    if host is None:
        raise NotFound("No such deployment.", field="host")
    able = adapters.list_hosts(organization, revision, engine=host.engine)
    if host not in able:
        raise InvalidInput(
            f"{host} cannot serve {revision}: it takes an engine that loads adapters while it runs,"
            f" and the adapter's base, {revision.parent}, without a rollout that is changing it.",
            field="host",
            remedy="Leave it out to have one chosen, or to give the adapter replicas of its own.",
        )
    return host


def refuse_for_guest(deployment: Deployment) -> None:
    """Raises ServedByHost for what is a matter of the host alone."""
    if (host := deployment.host) is not None:
        raise ServedByHost(
            f"{deployment} is an adapter served on the replicas of {host}.",
            remedy=f"Change {host} instead, or deploy the adapter with replicas of its own.",
        )


def refuse_for_host(deployment: Deployment, *, what: str) -> None:
    """Raises HostInUse while adapters hang on the locked deployment. `what` would befall it."""
    names = [str(guest) for guest in adapters.list_guests(deployment)[:10]]
    if names:
        raise HostInUse(
            f"{deployment} cannot {what}: on its replicas are served {', '.join(names)}.",
            remedy="Delete these deployments first.",
        )


def check_change(deployment: Deployment, after: Content, revision: Revision) -> None:
    """Whether the locked deployment may come to serve `after`; `revision` is the content's. An
    adapter on a host may be followed by another of the same base, and a host may change all but
    its base and its engine. Raises ServedByHost, HostInUse."""
    same_base = adapters.base_of(revision) == adapters.base_of(deployment.revision)
    if deployment.host_id is not None:
        is_next = replace(after, revision_id=deployment.revision_id) == Content.of(deployment)
        if not (is_next and same_base and adapters.is_adapter(revision)):
            refuse_for_guest(deployment)
    elif not same_base or after.engine != deployment.engine:
        refuse_for_host(deployment, what="change its base or its engine")


def change_revision(deployment: Deployment, revision: Revision) -> None:
    """Let another adapter follow on the locked deployment's host: engines load it in the place of
    the one before, whose open requests finish."""
    deployment.revision = revision
    deployment.generation += 1
    deployment.save(update_fields=["revision", "generation"])
    jobs.enqueue("deployments.reconcile", deployment_id=str(deployment.pk))
    if deployment.host is not None:
        attach_soon(deployment.host)


def attach_soon(host: Deployment) -> None:
    """Have the agents of the host's ready replicas see to its adapters, after commit; they come
    round by themselves as well."""
    rows = Replica.objects.filter(deployment=host, status=ReplicaStatus.READY)
    for replica in rows.select_related("node"):
        if replica.node is not None:
            jobs.enqueue(
                "agent.attach_adapters",
                queue=replica.node.queue,
                expires_seconds=MESSAGE_EXPIRES_SECONDS,
                replica_id=str(replica.pk),
            )
