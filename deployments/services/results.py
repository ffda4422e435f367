"""Results of training under a name of their own, at once and without hardware of their own."""

from datetime import datetime

from django.db import transaction

from accounts import audit
from accounts.models import Organization
from deployments import adapters
from deployments.models import Deployment
from deployments.services.autoscaling import Wanted, set_autoscaling
from deployments.services.deployments import NameTaken, create_deployment
from engines.host import ADAPTER_ENGINES
from models_registry.models import Revision

ASLEEP = Wanted(min_replicas=0, max_replicas=1)
BASE_PREFIX = "fine-tuned-on-"


def serve_result(
    *,
    organization: Organization,
    name: str,
    revision: Revision,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Deployment:
    """Serve a result under `name`, which may be a fine-tuned model's (`ft:...`); what is served
    under it already stays.

    An adapter goes beside its base where the organization serves that, or else on a deployment of
    the base that is made for all such adapters and sleeps until one of them is asked for. Whole
    weights get a deployment that sleeps. Raises what `create_deployment` does.
    """
    rows = Deployment.objects.of(organization).filter(name=name, deleted_at__isnull=True)
    if (found := rows.first()) is not None:
        return found
    if not adapters.is_adapter(revision):
        return _create_asleep(organization, name, revision, actor=actor, now=now)
    host = _find_host(organization, revision)
    if host is None:
        host = _base_asleep(organization, adapters.base_of(revision), actor=actor, now=now)
    return create_deployment(
        organization=organization,
        name=name,
        revision_id=revision.pk,
        engine=host.engine,
        host_id=host.pk,
        is_result=True,
        actor=actor,
        now=now,
    )


def _find_host(organization: Organization, adapter: Revision) -> Deployment | None:
    """A live deployment of the adapter's base itself: of another adapter's, people may well think
    that they can do without."""
    for engine in sorted(ADAPTER_ENGINES, key=lambda name: name != "transformers"):
        for host in adapters.list_hosts(organization, adapter, engine=engine):
            if adapters.is_alive(host) and not adapters.is_adapter(host.revision):
                return host
    return None


def _base_asleep(
    organization: Organization, base: Revision, *, actor: audit.Actor, now: datetime
) -> Deployment:
    name = f"{BASE_PREFIX}{base.registered_model.name}"[:88] + f"-{base.pk.hex[-6:]}"
    try:
        return _create_asleep(organization, name, base, actor=actor, now=now)
    except NameTaken:  # by another result, a moment ago
        rows = Deployment.objects.of(organization).filter(revision=base, deleted_at__isnull=True)
        return rows.get(name=name)


@transaction.atomic
def _create_asleep(
    organization: Organization,
    name: str,
    revision: Revision,
    *,
    actor: audit.Actor,
    now: datetime,
) -> Deployment:
    """Replicas come with the first request, and go when none has come for a while."""
    deployment = create_deployment(
        organization=organization,
        name=name,
        revision_id=revision.pk,
        replicas=0,
        own_replicas=True,
        is_result=True,
        actor=actor,
        now=now,
    )
    set_autoscaling(
        organization=organization, deployment_id=deployment.pk, wanted=ASLEEP, actor=actor, now=now
    )
    return deployment
