"""One organization with something of everything, for pages to show."""

import io
import json
import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from accounts import services as account_services
from accounts.choices import Role, Scope
from accounts.models import ApiKey, Organization, User
from accounts.tests.make import make_member, make_organization
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
from models_registry.models import Alias, EvaluationResult, RegisteredModel, Revision
from models_registry.tests.make import make_revision
from training import services as training_services
from training.models import (
    Checkpoint,
    Dataset,
    DatasetVersion,
    Evaluation,
    EvaluationAnswer,
    TrainingEvent,
    TrainingMetric,
    TrainingRun,
)
from usage.choices import Item
from usage.models import UsageRecord


@dataclass
class World:
    organization: Organization
    person: User
    model: RegisteredModel
    base: Revision
    result: Revision
    dataset: Dataset
    version: DatasetVersion
    run: TrainingRun
    evaluation: Evaluation
    deployment: Deployment
    load_test: LoadTest
    rollout: Rollout
    key: ApiKey
    node: Node


def make_world(folder: Path, *, slug: str = "retail", person: str = "ada", now: datetime) -> World:
    """Rows of every noun; `folder` is scratch space for model files."""
    organization = make_organization(slug)
    user = make_member(organization, person, Role.OWNER)
    base = make_revision(folder / slug, organization, name=f"{slug}-base", seed=1)
    result = make_revision(
        folder / slug, organization, name=f"{slug}-support", kind="full", seed=2, parent=base
    )
    version = make_version(organization, now=now)
    node = make_node(now=now)
    run = make_run(organization, base, result, version, node, now=now)
    deployment = make_deployment(organization, result, node, now=now)
    evaluation = make_evaluation(organization, version, base, result, now=now)
    EvaluationResult.objects.create(
        organization=organization,
        revision=result,
        evaluation_id=evaluation.pk,
        dataset_name=version.dataset.name,
        split="heldout",
        examples=2,
        metrics={"exact_match": 0.94},
        created_at=now,
    )
    Alias.objects.create(
        registered_model=result.registered_model, name="champion", revision=result, moved_at=now
    )
    key = account_services.issue_api_key(
        organization=organization, name="nightly", scopes=[Scope.INFERENCE], now=now
    ).row
    load_test = make_load_test(deployment, now=now)
    make_usage(organization, deployment, key, now=now)
    return World(
        organization=organization,
        person=user,
        model=result.registered_model,
        base=base,
        result=result,
        dataset=version.dataset,
        version=version,
        run=run,
        evaluation=evaluation,
        deployment=deployment,
        load_test=load_test,
        rollout=deployment.rollouts.get(),
        key=key,
        node=node,
    )


def chat_lines(count: int, *, start: int = 0) -> bytes:
    """OpenAI chat jsonl."""
    lines = []
    for number in range(start, start + count):
        answer = json.dumps({"intent": "track", "order": str(1000 + number)})
        messages = [
            {"role": "user", "content": f"Where is my order {1000 + number}? It is late."},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": messages}))
    return ("\n".join(lines) + "\n").encode()


def make_version(organization: Organization, *, now: datetime) -> DatasetVersion:
    dataset = training_services.create_dataset(
        organization=organization, name="support", description="Questions of shoppers.", now=now
    )
    return training_services.upload_version(
        organization=organization,
        dataset_id=dataset.pk,
        files={"train": io.BytesIO(chat_lines(40)), "heldout": io.BytesIO(chat_lines(8, start=90))},
        now=now,
    )


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


def make_run(
    organization: Organization,
    base: Revision,
    result: Revision,
    version: DatasetVersion,
    node: Node,
    *,
    now: datetime,
) -> TrainingRun:
    run = TrainingRun.objects.create(
        organization=organization,
        name="support-full-1",
        base_revision=base,
        dataset_version=version,
        eval_split="heldout",
        output_name=result.registered_model.name,
        tuning="full",
        hyperparameters={"epochs": 3.0, "learning_rate": 0.001, "batch_size": 16},
        status="running",
        status_changed_at=now,
        node=node,
        attempt=1,
        step=240,
        total_steps=400,
        train_loss=0.412,
        eval_loss=0.463,
        tokens_total=1_204_000,
        tokens_per_second=10_433.2,
        seconds_left=74.0,
        log_tail="\n".join(f"step {step} loss {3 / (1 + step / 20):.3f}" for step in range(60)),
        created_at=now - timedelta(minutes=4),
        started_at=now - timedelta(minutes=3),
    )
    TrainingMetric.objects.bulk_create(
        TrainingMetric(
            run=run,
            step=step,
            at=now,
            loss=3 * math.exp(-step / 80) + 0.4 + 0.05 * math.sin(step),
            eval_loss=3 * math.exp(-step / 85) + 0.45 if step % 40 == 0 else None,
            tokens_per_second=10_000 + 400 * math.sin(step / 9),
        )
        for step in range(10, 250, 10)
    )
    TrainingEvent.objects.create(run=run, at=now, kind="started", message="On alpha.")
    Checkpoint.objects.create(
        run=run, step=200, path="/nowhere/200", size_bytes=15_000_000, created_at=now
    )
    return run


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


def make_evaluation(
    organization: Organization,
    version: DatasetVersion,
    base: Revision,
    result: Revision,
    *,
    now: datetime,
) -> Evaluation:
    evaluation = Evaluation.objects.create(
        organization=organization,
        name="support against its base",
        split=version.splits.get(name="heldout"),
        model_names=["base", "support"],
        revision_ids={"base": str(base.pk), "support": str(result.pk)},
        status="succeeded",
        status_changed_at=now,
        examples_total=2,
        answers_done=4,
        results={
            "base": {"exact_match": 0.0, "valid_json": 0.1, "fields": {"intent": 0.05}},
            "support": {"exact_match": 0.5, "valid_json": 1.0, "fields": {"intent": 1.0}},
        },
        comparisons={
            "support": {
                "exact_match": {
                    "difference": 0.5,
                    "low": 0.0,
                    "high": 1.0,
                    "verdict": "unclear",
                    "wins": 1,
                    "losses": 0,
                    "ties": 1,
                    "pairs": 2,
                    "lower_is_better": False,
                }
            }
        },
        created_at=now,
        ended_at=now,
    )
    for line in (1, 2):
        for name, answer in (("base", "I am"), ("support", '{"intent": "track"}')):
            EvaluationAnswer.objects.create(
                evaluation=evaluation,
                model_name=name,
                line=line,
                prompt=f"Where is order {line}?",
                expected='{"intent": "track"}',
                answer=answer,
                is_exact=name == "support" and line == 1,
                scores={"exact_match": float(name == "support" and line == 1)},
            )
    return evaluation


def make_usage(
    organization: Organization, deployment: Deployment, key: ApiKey, *, now: datetime
) -> None:
    hour = now.replace(minute=0, second=0, microsecond=0)
    for item, quantity in (
        (Item.REQUESTS, 412),
        (Item.INPUT_TOKENS, 51_240),
        (Item.CACHED_INPUT_TOKENS, 9_000),
        (Item.OUTPUT_TOKENS, 20_480),
    ):
        UsageRecord.objects.create(
            organization=organization,
            hour=hour,
            item=item,
            model_name=deployment.name,
            key_id=key.pk,
            key_name=key.name,
            quantity=quantity,
        )
    UsageRecord.objects.create(
        organization=organization,
        hour=hour,
        item=Item.ACCELERATOR_SECONDS,
        accelerator_type_slug="generic-cpu",
        pool_name="local",
        purpose=Purpose.SERVING,
        subject_name=deployment.name,
        quantity=Decimal("1800"),
    )
