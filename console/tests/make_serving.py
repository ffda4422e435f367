"""A node, and a deployment on it with its replicas, rollout and load test, for pages to show."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from accounts.models import Organization
from chips.choices import Purpose
from chips.models import (
    Accelerator,
    AcceleratorType,
    AllocatedSlot,
    Allocation,
    Node,
    Pool,
)
from deployments import plans, variants
from deployments.models import (
    Deployment,
    LoadTest,
    Replica,
    ReplicaEvent,
    Rollout,
    Route,
    RouteTarget,
    Variant,
)
from models_registry.models import Revision


def make_node(*, now: datetime) -> Node:
    """A node with four CPU accelerators; the same one each time."""
    found = Node.objects.filter(name="alpha").first()
    if found is not None:
        return found
    pool = Pool.objects.create(name="local", region="here", created_at=now)
    kind, _made = AcceleratorType.objects.get_or_create(
        slug="generic-cpu",
        defaults={"vendor": "Generic", "model": "CPU", "torch_device": "cpu", "slots": 2},
    )
    node = Node.objects.create(
        name="alpha",
        pool=pool,
        facts={"cpu_model": "made up", "cores": 8},
        registered_at=now,
        agent_started_at=now,
        last_heartbeat_at=now,
    )
    for index in range(4):
        Accelerator.objects.create(
            node=node,
            type=kind,
            index=index,
            device_id=f"cpu:{2 * index}",
            cores=[2 * index, 2 * index + 1],
            memory_bytes=8 * 2**30,
            slots=2,
            last_seen_at=now,
        )
    return node


def make_deployment(
    organization: Organization, revision: Revision, node: Node, *, now: datetime
) -> Deployment:
    deployment = Deployment.objects.create(
        organization=organization,
        name="support",
        revision=revision,
        desired_replicas=2,
        observed_generation=1,
        status="degraded",
        status_changed_at=now,
        message="One replica waits for accelerators.",
        pool_name="local",
        created_at=now - timedelta(hours=2),
    )
    variant = variants.ensure_served(deployment, now=now)
    replica = Replica.objects.create(
        deployment=deployment,
        variant=variant,
        revision=revision,
        generation=1,
        status="ready",
        node=node,
        port=None,
        log_tail="ready to answer",
        created_at=now,
        ready_at=now,
    )
    replica.allocation = _allocate(organization, replica, node, now=now)
    replica.save()
    Replica.objects.create(
        deployment=deployment, variant=variant, revision=revision, generation=1, created_at=now
    )
    ReplicaEvent.objects.create(replica=replica, at=now, kind="ready", message="Answered.")
    make_rollout(deployment, variant, now=now)
    route = Route.objects.create(organization=organization, name="support", created_at=now)
    RouteTarget.objects.create(route=route, deployment=deployment)
    return deployment


def make_rollout(deployment: Deployment, served: Variant, *, now: datetime) -> Rollout:
    """At its first step, in the middle of its bake time."""
    content = replace(variants.Content.of(deployment), settings={"max_concurrency": 32})
    rollout = Rollout.objects.create(
        deployment=deployment,
        number=1,
        from_variant=served,
        to_variant=variants.ensure(deployment, content, now=now),
        plan=plans.write(plans.read()),
        requested_by="ada",
        status="progressing",
        status_changed_at=now,
        step=1,
        weight=10,
        waits_for="baking",
        old_ready=1,
        new_ready=1,
        measured={
            "old": {"requests": 412, "errors": 1, "first_tokens": 400, "first_token_seconds": 0.31},
            "new": {"requests": 44, "errors": 0, "first_tokens": 44, "first_token_seconds": 0.28},
        },
        created_at=now,
        began_at=now,
        step_entered_at=now - timedelta(seconds=18),
        progressed_at=now,
    )
    rollout.events.create(at=now, kind="began", message="From variant 1 to 2.")
    return rollout


def _allocate(
    organization: Organization, replica: Replica, node: Node, *, now: datetime
) -> Allocation:
    allocation = Allocation.objects.create(
        organization=organization,
        purpose=Purpose.SERVING,
        holder_id=replica.pk,
        holder_name=str(replica),
        subject_name="support",
        node=node,
        node_name=node.name,
        pool_name=node.pool.name,
        accelerator_type_slug="generic-cpu",
        accelerator_share=Decimal("0.5"),
        held_at=now,
    )
    taken = AllocatedSlot.objects.filter(released_at__isnull=True).count()
    accelerator = node.accelerators.order_by("index")[taken // 2]
    AllocatedSlot.objects.create(allocation=allocation, accelerator=accelerator, slot=taken % 2)
    return allocation


def make_load_test(deployment: Deployment, *, now: datetime) -> LoadTest:
    """Two levels measured, the second beyond the limit."""
    level = {
        "requests": 40,
        "failures": 0,
        "seconds": 10.2,
        "input_tokens": 3200,
        "output_tokens": 2560,
        "itl_p50_milliseconds": 9.1,
        "itl_p95_milliseconds": 14.0,
        "problems": [],
    }
    return LoadTest.objects.create(
        organization=deployment.organization,
        deployment=deployment,
        deployment_name=deployment.name,
        revision=deployment.revision,
        revision_name=str(deployment.revision),
        engine=deployment.engine,
        replicas=1,
        accelerators={"generic-cpu-x86-64-host": 0.25},
        clients=[1, 8],
        seconds_per_level=10,
        limit_ttft_milliseconds=200,
        status="succeeded",
        status_reason="measured",
        results=[
            level
            | {
                "clients": 1,
                "tokens_per_second": 110.5,
                "ttft_p50_milliseconds": 31.0,
                "ttft_p95_milliseconds": 48.0,
                "within_limits": True,
            },
            level
            | {
                "clients": 8,
                "tokens_per_second": 251.0,
                "ttft_p50_milliseconds": 160.0,
                "ttft_p95_milliseconds": 320.0,
                "within_limits": False,
            },
        ],
        largest_clients=1,
        created_at=now,
        ended_at=now,
    )
