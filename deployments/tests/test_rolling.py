"""Rollouts with rows: what is asked, replicas as they come up, and what gateways tell."""

from pathlib import Path

import pytest

from accounts.models import AuditEvent
from accounts.tests.make import NOW
from deployments import reconcile, selectors, services, signals
from deployments.choices import ReplicaStatus, RolloutStatus, Verdict
from deployments.models import Deployment, Replica
from deployments.tests.make import make_deployment, make_replica
from deployments.tests.rolling import Rolling

pytestmark = pytest.mark.django_db
S = ReplicaStatus
R = RolloutStatus


@pytest.fixture
def rolling(tmp_path: Path) -> Rolling:
    return Rolling(make_deployment(tmp_path, replicas=2))


def test_a_change_goes_through_its_steps_and_is_then_what_is_served(rolling: Rolling) -> None:
    rollout = rolling.change(settings={"max_waiting": 1})
    assert rolling.served() == {}  # nothing is changed yet
    rolling.look()
    assert rolling.counts() == {"old": 2, "new": 1}
    assert rolling.weights() == {1: 100}
    rolling.make_ready()
    rolling.look()
    assert (rolling.rollout().step, rolling.rollout().status) == (1, R.PROGRESSING)
    assert rolling.weights() == {1: 90, 2: 10}
    rolling.look(after=60)
    assert rolling.weights() == {1: 50, 2: 50}
    rolling.look(after=60)  # half of two is one: ready already
    rolling.settle()
    assert rolling.weights() == {2: 100}
    assert rolling.counts() == {"old": 1, "new": 2}  # one stays for the way back
    rolling.look(after=60)
    assert rolling.rollout().status == R.COMPLETED
    assert rolling.served() == {"max_waiting": 1}
    assert rolling.counts() == {"old": 0, "new": 2}
    assert [event.kind for event in rollout.events.all()] == [
        "began", "step", "step", "step", "completed",
    ]  # fmt: skip
    rolling.let_go()
    rolling.look()
    assert not reconcile.list_unsettled().exists()


@pytest.mark.parametrize("is_silent", [True, False])
def test_without_traffic_time_alone_decides_and_without_measurements_nothing(
    rolling: Rolling, is_silent: bool
) -> None:
    rolling.window = signals.Window(seconds=1, replicas={}) if is_silent else None
    rolling.change(settings={"max_waiting": 1})
    rolling.settle()
    assert rolling.rollout().step == 1
    rolling.look(after=600)
    assert rolling.rollout().step == (2 if is_silent else 1)
    if not is_silent:
        assert rolling.rollout().waits_for == "measurements"


def test_the_newest_change_wins_and_never_do_three_variants_serve(rolling: Rolling) -> None:
    first = rolling.change(settings={"max_waiting": 1})
    rolling.settle()
    assert set(rolling.weights()) == {1, 2}
    second = rolling.change(settings={"max_waiting": 2})
    third = rolling.change(settings={"max_waiting": 3, "max_concurrency": 5})
    rolling.look()
    statuses = [rolling.again(each).status for each in (first, second, third)]
    assert statuses == [R.SUPERSEDED, R.SUPERSEDED, R.PROGRESSING]
    assert set(rolling.weights()) == {1}
    rolling.let_go()
    rolling.settle()
    assert set(rolling.weights()) == {1, 4}
    rolling.go_through()
    assert rolling.served() == {"max_waiting": 3, "max_concurrency": 5}


def test_a_change_builds_on_the_one_under_way_and_a_change_back_ends_it(rolling: Rolling) -> None:
    rolling.change(settings={"max_waiting": 1})
    second = rolling.change(slots_per_replica=2)
    assert second.to_variant.settings == {"max_waiting": 1}
    assert rolling.change(slots_per_replica=2) == second  # the same again
    rolling.look()
    back = rolling.change(settings={}, slots_per_replica=1)
    assert back == second
    rolling.look()
    assert rolling.again(second).status == R.ABORTED
    assert rolling.change(settings={}) is None


@pytest.mark.parametrize("at_step", [0, 1, 2, 3])
def test_aborted_at_any_step_the_old_variant_answers_alone(rolling: Rolling, at_step: int) -> None:
    rollout = rolling.change(settings={"max_waiting": 1})
    rolling.go_to(at_step)
    services.abort_rollout(
        organization=rolling.deployment.organization, rollout_id=rollout.pk, now=rolling.now
    )
    for _ in range(4):
        rolling.look()
        assert sum(rolling.weights().values()) == 100
        assert len(rolling.ready()) >= 2, "fewer answer than are wanted"
        rolling.make_ready()
    rolling.let_go()
    assert rolling.rollout().status == R.ABORTED
    assert rolling.weights() == {1: 100}
    assert rolling.served() == {}
    assert rolling.counts() == {"old": 2, "new": 0}


def test_errors_on_new_replicas_bring_the_old_ones_back(rolling: Rolling) -> None:
    rolling.change(settings={"max_waiting": 1})
    rolling.settle()
    rolling.measure(old=(1000, 0), new=(40, 30))
    rolling.look(after=3)
    rollout = rolling.rollout()
    assert (rollout.status, rollout.status_reason) == (R.ROLLED_BACK, "errors")
    assert "30 of 40 requests failed" in rollout.message
    assert rolling.weights() == {1: 100}
    assert rolling.counts() == {"old": 2, "new": 0}
    assert AuditEvent.objects.filter(action="deployment.roll_back").count() == 1
    assert rolling.served() == {}


def test_a_slow_first_token_brings_the_old_ones_back(rolling: Rolling) -> None:
    rolling.change(settings={"max_waiting": 1})
    rolling.settle()
    rolling.measure(old=(1000, 0), new=(40, 0), first_token=(0.2, 0.9))
    rolling.look(after=3)
    assert rolling.rollout().status_reason == "slow_first_token"
    assert rolling.rollout().measured["new"]["first_tokens"] == 40


def test_new_replicas_that_crash_stop_the_rollout_and_not_the_deployment(
    rolling: Rolling,
) -> None:
    rolling.change(settings={"max_waiting": 1})
    for _ in range(3):
        rolling.look(after=30)
        assert rolling.rollout().status == R.PROGRESSING
        rolling.crash_new("CUDA out of memory")
    rolling.look(after=30)
    rollout = rolling.rollout()
    assert (rollout.status, rollout.status_reason) == (R.ROLLED_BACK, "crash_loop")
    assert "CUDA out of memory" in rollout.message
    rolling.deployment.refresh_from_db()
    assert rolling.deployment.failures == 0
    assert rolling.weights() == {1: 100}


def test_where_no_room_is_for_a_surge_it_says_so_and_gives_up_at_its_deadline(
    rolling: Rolling,
) -> None:
    rolling.change(settings={"max_waiting": 1}, plan={"deadline_seconds": 300})
    rolling.look()
    Replica.objects.filter(status=S.PENDING).update(message="No accelerator is free.")
    rolling.look(after=200)
    assert "No accelerator is free." in rolling.rollout().message
    assert '"replace"' in rolling.rollout().message
    rolling.look(after=200)
    assert rolling.rollout().status_reason == "deadline"
    assert rolling.weights() == {1: 100}


def test_replacing_needs_no_room(rolling: Rolling) -> None:
    rolling.change(settings={"max_waiting": 1}, plan={"strategy": "replace"})
    most = 0
    for _ in range(12):
        rolling.look(after=60)
        held = Replica.objects.filter(status__in=[S.PENDING, S.STARTING, S.READY], wanted=True)
        most = max(most, held.count())
        assert len(rolling.ready()) >= 1
        rolling.let_go()
        rolling.make_ready()
    assert most == 2
    assert rolling.rollout().status == R.COMPLETED


def test_paused_it_holds_and_resumed_it_bakes_what_was_left(rolling: Rolling) -> None:
    rollout = rolling.change(settings={"max_waiting": 1})
    rolling.settle()
    rolling.look(after=40)
    rolling.steer(services.pause_rollout, rollout)
    rolling.look(after=1000)
    assert (rolling.rollout().status, rolling.weights()) == (R.PAUSED, {1: 90, 2: 10})
    rolling.steer(services.resume_rollout, rollout)
    rolling.look()
    rolling.look(after=10)
    assert rolling.rollout().step == 1
    rolling.look(after=15)
    assert rolling.rollout().step == 2
    assert [event.kind for event in rollout.events.all()] == [
        "began", "step", "paused", "resumed", "step",
    ]  # fmt: skip


def test_promoted_it_is_whole_as_soon_as_replicas_are_ready(rolling: Rolling) -> None:
    rollout = rolling.change(settings={"max_waiting": 1}, plan={"is_gated": True})
    rolling.settle()
    rolling.steer(services.promote_rollout, rollout)
    rolling.settle()
    assert rolling.rollout().status == R.COMPLETED
    assert rolling.weights() == {2: 100}


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_last_step_waits_for_a_verdict(rolling: Rolling, verdict: Verdict) -> None:
    rollout = rolling.change(settings={"max_waiting": 1}, plan={"is_gated": True})
    rolling.go_to(2)
    rolling.look(after=600)
    assert (rolling.rollout().step, rolling.rollout().waits_for) == (2, "gate")
    services.give_verdict(
        organization=rolling.deployment.organization,
        rollout_id=rollout.pk,
        verdict=verdict,
        evidence={"evaluation": "nightly", "exact_match": 0.9},
        now=rolling.now,
    )
    rolling.settle()
    passed = verdict == Verdict.PASSED
    assert rolling.rollout().step == (3 if passed else 2)
    assert rolling.rollout().status_reason == ("began" if passed else "gate_failed")


def test_where_nothing_answers_a_change_holds_at_once(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    make_replica(deployment, status=S.STARTING)
    Deployment.objects.update(failures=5)
    rolling = Rolling(deployment, fill=False)
    rolling.change(settings={"max_waiting": 1})
    rolling.look()
    rollout = rolling.rollout()
    assert (rollout.status, rollout.status_reason) == (R.COMPLETED, "nothing_served")
    assert rolling.served() == {"max_waiting": 1}
    assert rolling.counts() == {"old": 0, "new": 1}  # and it is started anew


def test_scaled_while_it_rolls_both_sides_follow(rolling: Rolling) -> None:
    rolling.change(settings={"max_waiting": 1})
    rolling.go_to(2)
    rolling.scale(6)
    rolling.settle()
    assert rolling.rollout().step == 2
    assert rolling.counts() == {"old": 4, "new": 3}
    rolling.scale(0)
    rolling.look()
    assert rolling.rollout().status == R.COMPLETED  # a new one has been ready
    assert rolling.counts() == {"old": 0, "new": 0}


def test_deleted_while_it_rolls_all_of_it_ends(rolling: Rolling) -> None:
    first = rolling.change(settings={"max_waiting": 1})
    rolling.settle()
    second = rolling.change(settings={"max_waiting": 2})
    services.delete_deployment(
        organization=rolling.deployment.organization,
        deployment_id=rolling.deployment.pk,
        now=rolling.now,
    )
    rolling.look()
    assert {rolling.again(each).status for each in (first, second)} == {R.ABORTED}
    assert rolling.counts() == {"old": 0, "new": 0}


def test_a_lost_old_side_leaves_its_share_to_the_new(rolling: Rolling) -> None:
    rolling.change(settings={"max_waiting": 1})
    rolling.settle()
    rolling.of("old").update(status=S.FAILED)
    assert rolling.weights() == {2: 100}
    rolling.look()
    assert rolling.counts() == {"old": 2, "new": 1}
    assert rolling.rollout().step == 1


def test_weights_are_a_share_of_the_routes_own(tmp_path: Path) -> None:
    rolling = Rolling(make_deployment(tmp_path, replicas=2))
    other = make_deployment(
        tmp_path, rolling.deployment.organization, name="other",
        revision=rolling.deployment.revision, replicas=1,
    )  # fmt: skip
    ready = make_replica(other, status=S.READY)
    route = rolling.deployment.route_targets.get().route
    route.targets.create(deployment=other, weight=300)
    rolling.change(settings={"max_waiting": 1})
    rolling.go_to(1)
    rows = {row.name: row for row in selectors.get_routing_table()}
    found = {target.revision_id: target.weight for target in rows["other"].targets}
    assert len(rows["other"].targets) == 1
    weights = sorted(target.weight for target in rows["support"].targets)
    assert weights == pytest.approx([10, 90, 300])
    assert found
    assert ready.pk in {each.id for target in rows["support"].targets for each in target.replicas}


def test_the_sweep_finds_a_rollout_by_its_row_alone(rolling: Rolling) -> None:
    rolling.look()
    assert not reconcile.list_unsettled().exists()
    rolling.change(settings={"max_waiting": 1})
    Deployment.objects.update(generation=1, observed_generation=1)
    assert reconcile.list_unsettled().exists()


def test_a_rollout_that_is_over_cannot_be_steered(rolling: Rolling) -> None:
    rollout = rolling.change(settings={"max_waiting": 1})
    rolling.steer(services.abort_rollout, rollout)
    rolling.steer(services.abort_rollout, rollout)  # twice changes nothing
    for steer in (services.pause_rollout, services.resume_rollout, services.promote_rollout):
        with pytest.raises(services.RolloutIsOver):
            rolling.steer(steer, rollout)
    rolling.look()
    other = rolling.change(settings={"max_waiting": 2})
    with pytest.raises(services.NotGated):
        services.give_verdict(
            organization=rolling.deployment.organization,
            rollout_id=other.pk,
            verdict=Verdict.PASSED,
            now=NOW,
        )
