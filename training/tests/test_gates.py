"""Aliases move only to revisions that have shown what their gate asks for."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from accounts.models import AuditEvent, Organization
from accounts.tests.make import NOW, make_key, make_organization
from common.errors import InvalidInput, NotAllowed, NotFound
from models_registry import promotion
from models_registry.gates import GateNotPassed
from models_registry.models import Alias, EvaluationResult, Revision
from models_registry.tests.make import make_revision
from training import services
from training.models import DatasetVersion
from training.tests.make import make_version

pytestmark = pytest.mark.django_db


def rule_on(version: DatasetVersion, **more: Any) -> dict[str, Any]:
    condition = {"metric": "exact_match", "at_least": 0.9, "worse_by_at_most": 0.01}
    return {
        "dataset_version": str(version.pk),
        "split": "heldout",
        "conditions": [condition],
        **more,
    }


def set_gate(version: DatasetVersion, revision: Revision, **more: Any) -> None:
    services.set_alias_gate(
        organization=version.dataset.organization,
        model_id=revision.registered_model_id,
        alias="champion",
        rule=rule_on(version, **more),
        now=NOW,
    )


def show(
    version: DatasetVersion, revision: Revision, value: float, **more: Any
) -> EvaluationResult:
    return EvaluationResult.objects.create(
        **{
            "organization": version.dataset.organization,
            "revision": revision,
            "evaluation_id": uuid4(),
            "dataset_version_id": version.pk,
            "dataset_name": str(version),
            "split": "heldout",
            "examples": 4,
            "metrics": {"exact_match": value},
            "created_at": NOW,
        }
        | more
    )


def lead(other: Revision, low: float, high: float) -> dict[str, Any]:
    seen = {"difference": (low + high) / 2, "low": low, "high": high, "lower_is_better": False}
    return {str(other.pk): {"exact_match": seen}}


def promote(organization: Organization, revision: Revision, **more: Any) -> Alias:
    return promotion.move_alias(
        organization=organization,
        model_id=revision.registered_model_id,
        alias="champion",
        revision_id=revision.pk,
        now=NOW,
        **more,
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Organization, DatasetVersion, Revision, Revision]:
    """Two revisions of one model; the first holds the alias, which has a gate from then on."""
    version = make_version()
    organization = version.dataset.organization
    first = make_revision(tmp_path, organization)
    second = make_revision(tmp_path, organization, seed=1)
    promote(organization, first)
    set_gate(version, first)
    return organization, version, first, second


def refused(organization: Organization, revision: Revision) -> GateNotPassed:
    with pytest.raises(GateNotPassed) as refusal:
        promote(organization, revision)
    assert Alias.objects.get().revision != revision
    return refusal.value


def test_without_an_evaluation_the_alias_stays(pair: tuple) -> None:
    organization, version, _first, second = pair
    refusal = refused(organization, second)
    assert "tickets:1/heldout" in refusal.message
    assert "evaluate both at once" in refusal.remedy
    show(version, second, 1.0, examples=3)  # not the whole split
    show(version, second, 1.0, split="train")
    show(version, second, 1.0, organization=make_organization("bank"))
    refused(organization, second)


def test_the_figure_and_the_whole_interval_decide(pair: tuple) -> None:
    organization, version, first, second = pair
    show(version, second, 0.95)
    assert "not been compared" in refused(organization, second).message
    show(version, second, 0.85, comparisons=lead(first, 0.0, 0.1), created_at=NOW + timedelta(1))
    assert "at least 0.9" in refused(organization, second).message
    show(version, second, 0.95, comparisons=lead(first, -0.02, 0.1), created_at=NOW + timedelta(2))
    assert "0.02 worse" in refused(organization, second).message
    show(version, second, 0.95, comparisons=lead(first, -0.005, 0.1), created_at=NOW + timedelta(3))
    assert promote(organization, second).revision == second
    event = AuditEvent.objects.get(action="alias.move", after__has_key="gate")
    assert event.after["gate"] == "passed"
    assert event.after["evidence"]["metrics"] == {"exact_match": 0.95}


def test_less_is_better_of_losses(pair: tuple) -> None:
    organization, version, first, second = pair
    condition = {"metric": "loss", "at_most": 1.5, "worse_by_at_most": 0.1}
    set_gate(version, first, conditions=[condition])
    seen = {"difference": 0.1, "low": 0.0, "high": 0.2, "lower_is_better": True}
    other = {str(first.pk): {"loss": seen}}
    show(version, second, 1.0, metrics={"loss": 1.0}, comparisons=other)
    assert "0.2 worse" in refused(organization, second).message
    seen["high"] = 0.05
    show(
        version,
        second,
        1.0,
        metrics={"loss": 1.0},
        comparisons=other,
        created_at=NOW + timedelta(1),
    )
    assert promote(organization, second).revision == second


def test_an_old_evaluation_does_not_count(pair: tuple) -> None:
    organization, version, first, second = pair
    set_gate(version, first, max_age_days=7)
    show(
        version,
        second,
        1.0,
        comparisons=lead(first, 0, 0.1),
        created_at=NOW - timedelta(days=8),
    )
    assert "fresh" in refused(organization, second).message


def test_operators_go_round_it_with_a_reason(pair: tuple) -> None:
    organization, _version, _first, second = pair
    with pytest.raises(NotAllowed):
        promote(organization, second, override_reason="I like it")
    alias = promote(organization, second, override_reason="outage 17", may_override=True)
    assert alias.revision == second
    event = AuditEvent.objects.get(action="alias.move", after__has_key="gate")
    assert (event.after["gate"], event.after["override_reason"]) == ("overridden", "outage 17")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"split": "trial"}, "split"),
        ({"conditions": []}, "rule.conditions"),
        ({"conditions": [{"metric": "exact_match"}]}, "rule.conditions.0"),
        ({"conditions": [{"metric": "x", "below": 1}]}, "rule.conditions.0.below"),
        ({"conditions": [{"metric": "x", "at_least": "1"}]}, "rule.conditions.0.at_least"),
        ({"min_examples": 5}, "rule.min_examples"),
        ({"max_age_days": 0}, "rule.max_age_days"),
        ({"more": 1}, "rule.more"),
    ],
)
def test_rules_are_refused_by_field(pair: tuple, change: dict, field: str) -> None:
    _organization, version, first, _second = pair
    with pytest.raises(InvalidInput) as refusal:
        set_gate(version, first, **change)
    assert refusal.value.field == field


def test_gates_over_rest(pair: tuple) -> None:
    organization, version, first, second = pair
    client = Client(headers={"Authorization": f"Bearer {make_key(organization)}"})
    gates = f"/api/v1/models/{first.registered_model_id}/gates/"
    assert [each["alias"] for each in client.get(gates).json()["results"]] == ["champion"]
    body = {"rule": rule_on(version)}
    kept = client.put(f"{gates}canary/", body, content_type="application/json").json()
    assert kept["rule"]["min_examples"] == 4  # the whole split
    alias = f"/api/v1/models/{first.registered_model_id}/aliases/champion/"
    asked = {"revision": str(second.pk)}
    answer = client.put(alias, asked, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "gate_not_passed")
    asked["override_reason"] = "I may not"
    assert client.put(alias, asked, content_type="application/json").status_code == 403
    assert client.delete(f"{gates}champion/").status_code == 204
    asked["override_reason"] = ""
    assert client.put(alias, asked, content_type="application/json").status_code == 200
    stranger = Client(headers={"Authorization": f"Bearer {make_key(make_organization('bank'))}"})
    assert stranger.get(gates).status_code == 404
    with pytest.raises(NotFound):
        promotion.remove_gate(
            organization=organization,
            model_id=first.registered_model_id,
            alias="champion",
            now=NOW,
        )
