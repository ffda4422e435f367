"""Rows for tests."""

from datetime import datetime
from pathlib import Path
from typing import Any

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from chips.choices import Purpose
from chips.models import Accelerator, AcceleratorType, AllocatedSlot, Allocation, Node, Pool
from common import boxes
from deployments import services, variants
from deployments.choices import ReplicaStatus
from deployments.models import Deployment, Provider, Replica
from models_registry.models import Revision
from models_registry.tests.make import make_revision

GIB = 2**30


def make_node(name: str = "node-1", *, pool: str = "local", accelerators: int = 2) -> Node:
    """A ready node of CPU accelerators with one core and 4 GiB each."""
    row, _ = Pool.objects.get_or_create(name=pool, defaults={"created_at": NOW})
    type_, _ = AcceleratorType.objects.get_or_create(
        slug="cpu", defaults={"vendor": "CPU", "model": "cores", "torch_device": "cpu"}
    )
    node = Node.objects.create(name=name, pool=row, registered_at=NOW, last_heartbeat_at=NOW)
    for index in range(accelerators):
        Accelerator.objects.create(
            node=node,
            type=type_,
            index=index,
            device_id=f"cpu:{index}",
            cores=[index],
            memory_bytes=4 * GIB,
            last_seen_at=NOW,
        )
    return node


def make_deployment(
    folder: Path,
    organization: Organization | None = None,
    *,
    name: str = "support",
    revision: Revision | None = None,
    engine: str = "fake",
    now: datetime = NOW,
    **options: Any,
) -> Deployment:
    """A deployment of a meaningless model; `folder` is scratch space (tmp_path)."""
    organization = organization or make_organization()
    return services.create_deployment(
        organization=organization,
        name=name,
        revision_id=(revision or make_revision(folder, organization)).pk,
        engine=engine,
        now=now,
        **options,
    )


def make_replica(
    deployment: Deployment, *, status: str = ReplicaStatus.STARTING, node: Node | None = None
) -> Replica:
    """A replica of the deployment; one that is past pending holds an accelerator of the node."""
    variant = variants.ensure_served(deployment, now=NOW)
    replica = Replica.objects.create(
        deployment=deployment,
        variant=variant,
        revision=variant.revision,
        generation=deployment.generation,
        status=status,
        status_changed_at=NOW,
        created_at=NOW,
    )
    if status == ReplicaStatus.PENDING:
        return replica
    replica.node = node or Node.objects.first() or make_node()
    replica.address = replica.node.address
    replica.placed_at = NOW
    replica.allocation = _make_allocation(replica, replica.node)
    if status in {ReplicaStatus.READY, ReplicaStatus.DRAINING}:
        replica.port = 20_000 + Replica.objects.count()
        replica.ready_at = NOW
    replica.save()
    return replica


def _make_allocation(replica: Replica, node: Node) -> Allocation:
    held = AllocatedSlot.objects.filter(released_at__isnull=True).values("accelerator_id")
    accelerator = node.accelerators.exclude(pk__in=held).first()
    assert accelerator is not None, "the node is full"
    allocation = Allocation.objects.create(
        organization=replica.deployment.organization,
        purpose=Purpose.SERVING,
        holder_id=replica.pk,
        holder_name=str(replica),
        subject_name=replica.deployment.name,
        node=node,
        node_name=node.name,
        pool_name=node.pool.name,
        accelerator_type_slug="cpu",
        accelerator_share=1,
        held_at=NOW,
    )
    AllocatedSlot.objects.create(allocation=allocation, accelerator=accelerator, slot=0)
    return allocation


def make_provider(
    organization: Organization,
    *,
    name: str = "elsewhere",
    base_url: str = "https://models.example.com/v1",
    key: str = "sk-elsewhere-1234",
    now: datetime = NOW,
) -> Provider:
    """An external provider as it is in the database, whatever hosts the platform may speak to."""
    return Provider.objects.create(
        organization=organization,
        name=name,
        base_url=base_url,
        sealed_key=boxes.seal(key),
        key_hint=key[-4:],
        created_at=now,
    )
