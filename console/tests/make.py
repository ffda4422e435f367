"""One organization with something of everything, for pages to show."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from accounts import limits
from accounts import services as account_services
from accounts.choices import LimitKind, Role, Scope
from accounts.models import ApiKey, Limit, Organization, User
from accounts.tests.make import make_member, make_organization
from chips.choices import Purpose
from chips.models import Node
from console.tests.make_serving import make_deployment, make_load_test, make_node
from console.tests.make_training import make_evaluation, make_run, make_version
from deployments import services
from deployments.models import Deployment, LoadTest, Provider, Rollout, Route
from deployments.tests.make import make_provider
from models_registry.models import Alias, EvaluationResult, RegisteredModel, Revision
from models_registry.tests.make import make_revision
from training.models import Dataset, DatasetVersion, Evaluation, TrainingRun
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
    limit: Limit
    provider: Provider
    route: Route
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
    provider = make_provider(organization, now=now)
    services.create_route(
        organization=organization,
        name="fallback",
        targets=[
            services.WantedTarget(deployment_id=deployment.pk),
            services.WantedTarget(provider_id=provider.pk, provider_model_name="qwen-plus", rank=1),
        ],
        now=now,
    )
    limit = limits.create_limit(
        organization=organization,
        wanted=limits.Wanted(kind=LimitKind.REQUESTS_PER_DAY, amount=Decimal(1000)),
        now=now,
    )
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
        limit=limit,
        provider=provider,
        route=Route.objects.of(organization).get(name="fallback"),
        node=node,
    )


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
