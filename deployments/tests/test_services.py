from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from accounts.models import AuditEvent
from accounts.tests.make import NOW, make_organization
from common.errors import DomainError, InvalidInput, NotFound
from deployments import selectors, services
from deployments.choices import DeploymentStatus, ReplicaStatus
from deployments.models import Deployment, Route
from deployments.tests.make import make_deployment, make_replica
from models_registry.models import Revision
from models_registry.tests.make import make_adapter_revision, make_revision

pytestmark = pytest.mark.django_db


def test_a_deployment_comes_with_its_route(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, replicas=2)
    (row,) = selectors.get_routing_table()
    assert (row.organization_slug, row.name) == ("retail", "support")
    (target,) = row.targets
    assert (target.deployment_id, target.weight, target.replicas) == (deployment.pk, 100, ())
    assert (target.deployment_name, target.revision_name) == ("support", "retail/tiny:1")
    assert AuditEvent.objects.filter(action="deployment.create").count() == 1


def test_only_ready_replicas_are_routed_to(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, replicas=2)
    make_replica(deployment, status=ReplicaStatus.STARTING)
    ready = make_replica(deployment, status=ReplicaStatus.READY)
    (row,) = selectors.get_routing_table()
    (seen,) = row.targets[0].replicas
    assert (seen.id, seen.address, seen.port) == (ready.pk, "127.0.0.1", ready.port)


def test_the_routing_table_takes_as_many_queries_for_one_as_for_many(
    tmp_path: Path, django_assert_num_queries
) -> None:
    retail = make_organization()
    revision = make_revision(tmp_path, retail)
    for index in range(4):
        make_deployment(tmp_path, retail, name=f"d{index}", revision=revision)
    with django_assert_num_queries(5):
        assert len(selectors.get_routing_table()) == 4


def test_a_taken_name_is_refused_within_the_organization_alone(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    with pytest.raises(services.NameTaken) as refused:
        make_deployment(tmp_path)
    assert refused.value.field == "name"
    make_deployment(tmp_path, make_organization("bank"))


def test_another_organizations_revision_is_not_found(tmp_path: Path) -> None:
    private = make_revision(tmp_path, make_organization("bank"))
    with pytest.raises(NotFound):
        make_deployment(tmp_path, revision=private)


def test_a_shared_revision_may_be_served_by_all(tmp_path: Path) -> None:
    shared = make_revision(tmp_path, make_organization("bank"), visibility="shared")
    assert make_deployment(tmp_path, revision=shared).revision == shared


def test_an_adapter_is_refused_where_its_base_takes_none(tmp_path: Path) -> None:
    base = make_revision(
        tmp_path, config={"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    )
    with pytest.raises(services.NotServable, match="without adapters") as refused:
        make_deployment(
            tmp_path, revision=make_adapter_revision(tmp_path, base), engine="transformers"
        )
    assert refused.value.remedy


def test_a_dora_adapter_is_to_be_merged_first(tmp_path: Path) -> None:
    adapter = make_adapter_revision(tmp_path, make_revision(tmp_path))
    Revision.objects.filter(pk=adapter.pk).update(facts={"dora": True})
    adapter.refresh_from_db()
    for engine in ("transformers", "vllm"):
        with pytest.raises(services.NotServable, match="is a DoRA adapter") as refused:
            make_deployment(tmp_path, revision=adapter, engine=engine)
        assert f"POST /api/v1/revisions/{adapter.pk}/merge/" in refused.value.remedy


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}, "Gemma2ForCausalLM"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequenceClassification"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_what_the_built_in_engine_cannot_run_is_refused_before_it_is_tried(
    tmp_path: Path, config: dict, said: str
) -> None:
    revision = make_revision(tmp_path, config=config)
    with pytest.raises(services.NotServable, match=said) as refused:
        make_deployment(tmp_path, revision=revision, engine="transformers")
    assert refused.value.field == "revision_id"
    assert "vllm" in refused.value.remedy
    assert not Deployment.objects.exists()


def test_what_runs_through_modules_may_be_served(tmp_path: Path) -> None:
    config = {"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]}
    revision = make_revision(tmp_path, config=config)
    assert make_deployment(tmp_path, revision=revision, engine="transformers").revision == revision


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("name", {"name": "no spaces"}),
        ("engine", {"engine": "steam"}),
        ("replicas", {"replicas": -1}),
        ("slots_per_replica", {"slots_per_replica": 0}),
        ("pool_name", {"pool_name": "nowhere"}),
        ("settings.colour", {"settings": {"colour": "red"}}),
        ("settings.max_concurrency", {"settings": {"max_concurrency": 0}}),
        ("settings.max_context_tokens", {"settings": {"max_context_tokens": 1.5}}),
        ("settings.dtype", {"settings": {"dtype": "int3"}}),
        ("settings.environment", {"settings": {"environment": {"LD_PRELOAD": "x"}}}),
    ],
)
def test_a_bad_value_is_refused_by_its_field(tmp_path: Path, field: str, options: dict) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_deployment(tmp_path, **options)
    assert refused.value.field == field
    assert not Deployment.objects.exists()


def test_scaling_changes_the_intent_once(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    for _ in range(2):
        deployment = services.scale_deployment(
            organization=deployment.organization,
            deployment_id=deployment.pk,
            replicas=3,
            now=NOW,
        )
    assert (deployment.desired_replicas, deployment.generation) == (3, 2)
    assert AuditEvent.objects.filter(action="deployment.scale").count() == 1


def test_scaling_to_the_same_number_starts_a_failed_deployment_anew(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    Deployment.objects.update(failures=5, status=DeploymentStatus.FAILED)
    deployment = services.scale_deployment(
        organization=deployment.organization, deployment_id=deployment.pk, replicas=1, now=NOW
    )
    assert (deployment.failures, deployment.generation) == (0, 2)


def test_deleting_takes_the_route_at_once_and_keeps_the_row(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    who: dict[str, Any] = {
        "organization": deployment.organization,
        "deployment_id": deployment.pk,
        "now": NOW,
    }
    services.delete_deployment(**who)
    services.delete_deployment(**who)
    assert not Route.objects.exists()
    deployment.refresh_from_db()
    assert (deployment.desired_replicas, deployment.deleted_at) == (0, None)
    with pytest.raises(services.DeploymentIsDeleting):
        services.scale_deployment(**who, replicas=1)
    assert AuditEvent.objects.filter(action="deployment.delete").count() == 1


def test_another_organization_may_change_nothing(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    bank = make_organization("bank")
    for pk in (deployment.pk, uuid4()):
        with pytest.raises(DomainError) as refused:
            services.scale_deployment(organization=bank, deployment_id=pk, replicas=0, now=NOW)
        assert refused.value.status_code == 404
        with pytest.raises(NotFound):
            services.delete_deployment(organization=bank, deployment_id=pk, now=NOW)
