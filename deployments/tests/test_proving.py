"""Rollouts with a gate: an evaluation decides, and nobody has to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from accounts.models import AuditEvent
from common.errors import InvalidInput, NotAllowed
from deployments import gate_states, selectors, services
from deployments.choices import ReplicaStatus, RolloutStatus
from deployments.models import Deployment
from deployments.tests.make import make_deployment
from deployments.tests.rolling import Rolling
from models_registry import gates
from models_registry.choices import TrialStatus
from models_registry.gates import GateNotPassed
from models_registry.models import EvaluationResult, Revision, Trial
from models_registry.rules import Rule
from models_registry.tests.make import make_revision

pytestmark = pytest.mark.django_db
R = RolloutStatus
VERSION = uuid4()
RULE = {
    "dataset_version": str(VERSION),
    "split": "heldout",
    "conditions": [{"metric": "exact_match", "at_least": 0.8, "worse_by_at_most": 0.02}],
}
QUICK = {"steps": [{"weight": 50, "bake_seconds": 60}, {"weight": 100, "bake_seconds": 0}]}


@pytest.fixture(autouse=True)
def rules_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the datasets of the floor's other app: rules are taken as they are written."""
    monkeypatch.setattr(gates, "_complete", [lambda _, rule: Rule.read(rule)])


@pytest.fixture
def rolling(tmp_path: Path) -> Rolling:
    return Rolling(make_deployment(tmp_path, replicas=2))


@pytest.fixture
def candidate(rolling: Rolling, tmp_path: Path) -> Revision:
    return make_revision(tmp_path, rolling.deployment.organization, seed=1)


def show(rolling: Rolling, revision: Revision, value: float, low: float = 0.0) -> None:
    lead = {"exact_match": {"difference": low, "low": low, "high": low + 0.1}}
    EvaluationResult.objects.create(
        organization=rolling.deployment.organization,
        revision=revision,
        evaluation_id=uuid4(),
        dataset_version_id=VERSION,
        dataset_name="tickets:1",
        split="heldout",
        examples=100,
        metrics={"exact_match": value},
        comparisons={str(rolling.first.revision_id): lead},
        created_at=rolling.now,
    )


def change(rolling: Rolling, candidate: Revision, **more: Any) -> Any:
    return rolling.change(revision_id=candidate.pk, plan={**QUICK, "gate": RULE, **more})


def end(rolling: Rolling, status: TrialStatus, message: str = "") -> None:
    trial = Trial.objects.get()
    trial.transition(TrialStatus.RUNNING, now=rolling.now)
    trial.transition(status, now=rolling.now, message=message)


def names() -> set[str]:
    return {row.name for row in selectors.get_routing_table()}


def kinds(rollout: Any) -> list[str]:
    return [event.kind for event in rollout.events.order_by("at", "id")]


def test_it_waits_before_the_first_step_asks_and_goes_on_by_itself(
    rolling: Rolling, candidate: Revision
) -> None:
    rollout = change(rolling, candidate)
    rolling.look()
    assert not Trial.objects.exists()  # nobody is there to be asked
    rolling.settle()
    Trial.objects.get().transition(TrialStatus.RUNNING, now=rolling.now)
    rolling.look(after=5000)  # no deadline runs out while an evaluation is waited for
    seen = rolling.rollout()
    assert (seen.step, seen.weight, seen.waits_for) == (0, 0, "gate")
    assert rolling.counts() == {"old": 2, "new": 1}
    assert rolling.weights() == {1: 100}
    trial = Trial.objects.get()
    assert (trial.model_name, trial.holder_name) == ("support@rollout-1", "support@before-1")
    rows = {row.name: row.targets[0] for row in selectors.get_routing_table()}
    assert {each.id for each in rows["support@rollout-1"].replicas} == {
        each.pk for each in rolling.of("new")
    }
    assert {each.id for each in rows["support@before-1"].replicas} == {
        each.pk for each in rolling.of("old")
    }
    assert rows["support@rollout-1"].revision_id == candidate.pk
    show(rolling, candidate, 0.9)
    end(rolling, TrialStatus.FINISHED)
    rolling.settle()
    assert (rolling.rollout().step, rolling.rollout().verdict) == (1, "passed")
    assert names() == {"support"}
    rolling.go_through()
    assert rolling.rollout().status == R.COMPLETED
    assert Deployment.objects.get().revision == candidate
    assert kinds(rollout)[:4] == ["began", "gate_evaluation", "gate_passed", "step"]


@pytest.mark.parametrize(("value", "low"), [(0.7, 0.0), (0.9, -0.03)])
def test_what_is_not_good_enough_goes_back_with_the_reason(
    rolling: Rolling, candidate: Revision, value: float, low: float
) -> None:
    rollout = change(rolling, candidate)
    rolling.settle()
    show(rolling, candidate, value, low)
    end(rolling, TrialStatus.FINISHED)
    rolling.settle()
    seen = rolling.rollout()
    assert (seen.status, seen.status_reason) == (R.ROLLED_BACK, "gate_failed")
    said = "at least 0.8" if value == 0.7 else "0.03 worse"
    assert said in seen.message
    assert said in rollout.events.get(kind="gate_failed").message
    assert rolling.counts() == {"old": 2, "new": 0}
    state = gate_states.find(seen)
    assert state is not None
    assert (state.status, said in state.reasons[0]) == ("failed", True)


def test_an_evaluation_that_is_there_already_decides_at_once(
    rolling: Rolling, candidate: Revision
) -> None:
    show(rolling, candidate, 0.9)
    change(rolling, candidate)
    rolling.settle()
    assert (rolling.rollout().step, rolling.rollout().verdict) == (1, "passed")
    assert not Trial.objects.exists()


def test_one_that_failed_already_costs_no_replica(rolling: Rolling, candidate: Revision) -> None:
    show(rolling, candidate, 0.1)
    change(rolling, candidate)
    rolling.look()
    assert rolling.rollout().turned_back == "gate_failed"
    assert rolling.counts() == {"old": 2, "new": 0}


@pytest.mark.parametrize("status", [TrialStatus.FAILED, TrialStatus.CANCELLED])
def test_an_evaluation_that_comes_to_nothing_turns_it_back(
    rolling: Rolling, candidate: Revision, status: TrialStatus
) -> None:
    change(rolling, candidate)
    rolling.settle()
    end(rolling, status, "the engine is away")
    rolling.settle()
    assert rolling.rollout().status == R.ROLLED_BACK
    assert "the engine is away" in rolling.rollout().message


def test_an_evaluation_that_nobody_begins_is_not_waited_for_for_ever(
    rolling: Rolling, candidate: Revision
) -> None:
    change(rolling, candidate, deadline_seconds=600)
    rolling.settle()
    rolling.look(after=601)
    rolling.settle()
    assert "Nobody has begun" in rolling.rollout().message


def test_aborted_the_evaluation_is_dropped_and_its_names_are_gone(
    rolling: Rolling, candidate: Revision
) -> None:
    rollout = change(rolling, candidate)
    rolling.settle()
    assert len(names()) == 3
    rolling.steer(services.abort_rollout, rollout)
    rolling.look()
    assert Trial.objects.get().cancel_requested_at is not None
    assert names() == {"support"}


def test_nobody_but_an_operator_goes_round_it(rolling: Rolling, candidate: Revision) -> None:
    rollout = change(rolling, candidate)
    rolling.settle()
    promote: Callable[..., Any] = services.promote_rollout
    asked = {"organization": rolling.deployment.organization, "rollout_id": rollout.pk}
    with pytest.raises(GateNotPassed):
        promote(**asked, now=rolling.now)
    with pytest.raises(NotAllowed):
        promote(**asked, override_reason="hurry", now=rolling.now)
    with pytest.raises(services.NotGated):
        services.give_verdict(**asked, verdict="passed", now=rolling.now)  # type: ignore[arg-type]
    promote(**asked, override_reason="outage 17", may_override=True, now=rolling.now)
    rolling.settle()
    assert rolling.rollout().status == R.COMPLETED
    event = AuditEvent.objects.get(action="rollout.promote")
    assert event.after == {"override_reason": "outage 17"}
    assert Trial.objects.get().cancel_requested_at is not None
    state = gate_states.find(rolling.rollout())
    assert state is not None
    assert state.status == "overridden"


def test_a_standing_gate_is_of_revisions_alone(rolling: Rolling, candidate: Revision) -> None:
    with pytest.raises(InvalidInput) as refusal:
        rolling.change(settings={"max_waiting": 1}, plan={"gate": RULE})
    assert refusal.value.field == "plan.gate"
    services.update_deployment(
        organization=rolling.deployment.organization,
        deployment_id=rolling.deployment.pk,
        change=services.Change(),
        standing_plan={**QUICK, "gate": RULE},
        now=rolling.now,
    )
    rollout = rolling.change(settings={"max_waiting": 1})
    assert "gate" not in rollout.plan
    assert not rollout.plan["is_gated"]
    rolling.go_through()
    assert rolling.rollout().status == R.COMPLETED
    gated = rolling.change(revision_id=candidate.pk)
    assert gated.plan["gate"]["split"] == "heldout"
    free = rolling.change(
        engine="fake", revision_id=candidate.pk, slots_per_replica=2, plan={"gate": None}
    )
    assert "gate" not in free.plan


def test_where_nothing_is_served_the_unproven_is_not_adopted(
    rolling: Rolling, candidate: Revision
) -> None:
    rolling.scale(0)
    rolling.settle()
    before = rolling.deployment.revision
    change(rolling, candidate)
    rolling.settle()
    assert rolling.rollout().status == R.ROLLED_BACK
    assert Deployment.objects.get().revision == before
    show(rolling, candidate, 0.9)
    change(rolling, candidate)
    rolling.settle()
    assert rolling.rollout().status == R.COMPLETED


def test_no_request_goes_to_the_unproven_even_if_the_old_side_is_gone(
    rolling: Rolling, candidate: Revision
) -> None:
    change(rolling, candidate)
    rolling.settle()
    rolling.of("old").update(status=ReplicaStatus.FAILED)
    assert rolling.weights() == {}


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        ({"gate": "yes"}, "plan.gate"),
        ({"gate": {"split": "heldout"}}, "plan.gate.dataset_version"),
        ({"gate": {**RULE, "conditions": []}}, "plan.gate.conditions"),
        ({"gate": RULE, "gated_step": 3}, "plan.gated_step"),
        ({"gate": RULE, "gated_step": True}, "plan.gated_step"),
    ],
)
def test_a_gate_that_cannot_be_is_refused_by_field(
    rolling: Rolling, candidate: Revision, plan: dict, field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        rolling.change(revision_id=candidate.pk, plan={**QUICK, **plan})
    assert refusal.value.field == field


def test_it_may_wait_at_a_later_step(rolling: Rolling, candidate: Revision) -> None:
    change(rolling, candidate, gated_step=2)
    rolling.go_to(1)
    rolling.look(after=600)
    rolling.settle()
    assert (rolling.rollout().step, rolling.rollout().waits_for) == (1, "gate")
