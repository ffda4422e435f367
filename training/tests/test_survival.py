"""Runs that rest, hang, run out of memory or of room, and go on."""

from datetime import timedelta
from pathlib import Path

import pytest

from accounts.tests.make import NOW
from chips.models import Node
from chips.tests.make import make_allocation, make_node
from common.errors import DomainError
from models_registry import promotion
from models_registry.models import Revision
from planner.placement import AcceleratorRequest
from trainer.host import CheckSighting, Seen
from trainer.progress import Kind
from training import outcomes, parity, placing, reconcile, services
from training.choices import EventLevel, RunStatus
from training.models import Checkpoint, TrainingEvent
from training.tests.test_reconcile import Scene

S = RunStatus


@pytest.fixture
def scene(tmp_path: Path, db: None) -> Scene:
    return Scene(tmp_path)


def pause(scene: Scene) -> None:
    services.pause_training_run(organization=scene.run.organization, run_id=scene.pk, now=scene.now)


def resume(scene: Scene) -> None:
    services.resume_training_run(
        organization=scene.run.organization, run_id=scene.pk, now=scene.now
    )


def rest(scene: Scene) -> None:
    """Paused in the middle, a checkpoint on its node."""
    scene.begin()
    scene.host.tell(Kind.CHECKPOINT, step=10, path="/x", bytes=1)
    pause(scene)
    scene.step()
    scene.host.tell(Kind.YIELDED, step=10)
    scene.host.exit(scene.name, 0)
    scene.settle()


def events(scene: Scene, kind: str) -> list[TrainingEvent]:
    return list(TrainingEvent.objects.filter(run=scene.pk, kind=kind).order_by("id"))


# Rest


def test_a_paused_run_saves_and_gives_its_accelerators_back(scene: Scene) -> None:
    scene.begin()
    scene.host.tell(Kind.CHECKPOINT, step=10, path="/x", bytes=1)
    pause(scene)
    scene.step()
    assert (scene.run.status, scene.run.status_reason) == (S.STOPPING, "pause_requested")
    scene.step()
    assert scene.host.stopped == [(scene.name, False)]
    assert scene.held() == 1  # it still saves
    scene.host.tell(Kind.YIELDED, step=12)
    scene.host.exit(scene.name, 0)
    scene.step()
    assert (scene.run.status, scene.held(), scene.run.node) == (S.PAUSED, 0, scene.node)
    assert Checkpoint.objects.get().pruned_at is None
    assert reconcile.sweep_node(host=scene.host, now=scene.now) == frozenset()
    assert scene.host.folder(scene.name).exists()
    assert not scene.place()  # until it is wanted
    assert scene.run.status == S.PAUSED


def test_a_trainer_gets_as_long_for_its_last_checkpoint_as_its_pace_asks_for(scene: Scene) -> None:
    scene.begin()
    scene.host.tell(Kind.STEP, step=11, total_steps=20, loss=2.5, patience_seconds=200.0)
    pause(scene)
    scene.step()
    scene.step(seconds=outcomes.STOP_SECONDS + 1)
    assert scene.host.stopped[-1] == (scene.name, False)
    scene.step(seconds=200)
    assert scene.host.stopped[-1] == (scene.name, True)
    scene.settle()
    assert scene.run.status == S.PAUSED  # it goes on from the checkpoint before


def test_a_paused_run_comes_back_to_its_checkpoints(scene: Scene) -> None:
    rest(scene)
    make_node("node-0")  # as free as the other, and first by name
    resume(scene)
    assert scene.place()
    assert (scene.run.status, scene.run.node, scene.run.attempt) == (S.STARTING, scene.node, 2)
    assert not events(scene, "starts_anew")
    scene.step()
    assert scene.host.specs[-1].attempt == 2


def test_it_waits_for_its_node_for_a_while_and_then_starts_anew_elsewhere(scene: Scene) -> None:
    rest(scene)
    make_allocation(request=AcceleratorRequest(accelerators=2))
    make_node("node-b")
    resume(scene)
    assert not scene.place()
    assert scene.run.status == S.PENDING
    assert "checkpoints are on node-a" in scene.run.message
    scene.now += timedelta(seconds=placing.HOME_SECONDS + 1)
    assert scene.place()
    assert scene.run.node != scene.node
    (told,) = events(scene, "starts_anew")
    assert told.level == EventLevel.WARN


def test_a_lost_node_is_not_waited_for(scene: Scene) -> None:
    rest(scene)
    Node.objects.update(status="lost")
    make_node("node-b")
    resume(scene)
    assert scene.place()
    assert scene.run.node != scene.node


def test_paused_before_it_was_placed(scene: Scene) -> None:
    pause(scene)
    assert not scene.place()
    assert (scene.run.status, scene.held()) == (S.PAUSED, 0)
    resume(scene)
    assert scene.place()
    assert scene.run.status == S.STARTING


def test_paused_before_its_trainer_was_started(scene: Scene) -> None:
    scene.place()
    pause(scene)
    scene.settle()
    assert (scene.run.status, scene.held(), scene.host.specs) == (S.PAUSED, 0, [])


def test_wanted_again_before_its_trainer_has_ended_it_keeps_its_accelerators(scene: Scene) -> None:
    scene.begin()
    pause(scene)
    scene.step()
    resume(scene)
    scene.host.tell(Kind.YIELDED, step=12)
    scene.host.exit(scene.name, 0)
    scene.step()
    assert (scene.run.status, scene.held(), scene.run.failures) == (S.STARTING, 1, 0)
    scene.step(seconds=2)
    assert len(scene.host.specs) == 2


def test_one_that_had_just_finished_is_published(scene: Scene) -> None:
    scene.begin()
    pause(scene)
    scene.step()
    scene.finish_training()
    scene.settle()
    assert scene.run.status == S.SUCCEEDED


def test_a_paused_run_can_be_cancelled(scene: Scene) -> None:
    rest(scene)
    services.cancel_training_run(
        organization=scene.run.organization, run_id=scene.pk, now=scene.now
    )
    assert not scene.place()
    assert scene.run.status == S.CANCELLED
    assert reconcile.sweep_node(host=scene.host, now=scene.now) == {scene.name}
    for refused in (pause, resume):
        with pytest.raises(DomainError) as error:
            refused(scene)
        assert error.value.code == "run_is_over"


def test_a_run_that_rests_on_a_node_that_is_lost_meanwhile(scene: Scene) -> None:
    scene.begin()
    pause(scene)
    scene.step()
    Node.objects.update(status="lost")
    placing.leave_lost_node(scene.pk, now=scene.now)
    assert not scene.place()
    assert (scene.run.status, scene.held()) == (S.PAUSED, 0)


# Silence


def test_a_trainer_that_hangs_is_killed_and_started_again(scene: Scene) -> None:
    scene.begin()
    scene.host.tell(
        Kind.STEP, step=11, total_steps=20, loss=2.5, tokens_total=1100, patience_seconds=90.0
    )
    scene.step()
    heard = scene.run.told_at
    assert heard is not None
    scene.now = heard + timedelta(seconds=89)
    assert not scene.step()
    assert scene.host.stopped == []
    scene.step(seconds=2)
    assert scene.host.stopped == [(scene.name, True)]
    (told,) = events(scene, "trainer_hung")
    assert told.level == EventLevel.WARN
    assert "91 s" in told.message
    scene.step()
    assert (scene.run.status, scene.run.attempt) == (S.STARTING, 2)
    assert "said nothing for" in scene.run.message
    assert len(events(scene, "trainer_hung")) == 1


def test_a_quick_trainer_is_given_a_minute_and_one_that_loads_half_an_hour(
    scene: Scene, settings
) -> None:
    settings.FACTORY_TRAINER_SILENCE_SECONDS = 60.0
    scene.place()
    scene.step()
    scene.step(seconds=reconcile.LOADING_SECONDS - 1)
    assert scene.host.stopped == []
    scene.host.tell(Kind.STARTED, total_steps=20, resumed_from_step=0)
    scene.host.tell(Kind.ALIVE, step=0, patience_seconds=0.5)
    scene.step()
    heard = scene.run.told_at
    assert heard is not None
    scene.now = max(scene.now, heard) + timedelta(seconds=59)
    scene.step()
    assert scene.host.stopped == []
    scene.step(seconds=2)
    assert scene.host.stopped == [(scene.name, True)]


def test_a_trainer_started_just_before_its_agent_was_killed_is_watched_too(scene: Scene) -> None:
    scene.place()
    scene.step()
    type(scene.run).objects.update(told_at=None)
    scene.step()
    scene.step(seconds=reconcile.LOADING_SECONDS + 1)
    assert scene.host.stopped == [(scene.name, True)]


# Memory and room


def test_a_trainer_killed_for_memory_gets_smaller_micro_batches(scene: Scene) -> None:
    scene.begin()
    scene.host.exit(scene.name, -9, memory_ran_out=True)
    scene.step()
    assert scene.run.micro_batch_splits == 2
    assert "ran out of memory" in scene.run.message
    (told,) = events(scene, "micro_batch_halved")
    assert told.level == EventLevel.WARN
    scene.step(seconds=2)
    assert [spec.micro_batch_splits for spec in scene.host.specs] == [1, 2]


def test_a_trainer_killed_by_somebody_keeps_its_micro_batches(scene: Scene) -> None:
    scene.begin()
    scene.host.exit(scene.name, -9)
    scene.step()
    assert scene.run.micro_batch_splits == 1


def test_what_a_trainer_halved_itself_is_kept_for_the_next(scene: Scene) -> None:
    scene.begin()
    scene.host.tell(
        Kind.WARNING, reason="out_of_memory", message="Cut into 4.", micro_batch_splits=4, step=3
    )
    scene.host.tell(Kind.WARNING, reason="disk_full", message="No room.", step=4)
    scene.host.exit(scene.name, -9)
    scene.step()
    scene.step(seconds=2)
    assert scene.host.specs[-1].micro_batch_splits == 4
    told = TrainingEvent.objects.filter(run=scene.pk, level=EventLevel.WARN)
    assert sorted((event.kind, event.message) for event in told) == [
        ("disk_full", "No room."),
        ("out_of_memory", "Cut into 4."),
    ]


# Parity

PASSED = {"way": "full", "passed": True, "max_abs_logprob_diff": 0.01, "reason": ""}
REPORT = {"prompts": 32, "dtype": "bfloat16", "template_sha256": "t", "tokenizer_sha256": "k"}


def to_compare(scene: Scene) -> None:
    """Trained, with a record to compare with; its comparison has begun."""
    scene.begin()
    scene.finish_training()
    scene.host.write_result({"parity.json": '{"dtype": "bfloat16", "prompts": []}'})
    scene.settle()


def publish(scene: Scene, checks: list[dict[str, object]] | None) -> Revision:
    report = None if checks is None else REPORT | {"checks": checks}
    scene.host.checks[scene.name] = CheckSighting(Seen.EXITED, report)
    scene.settle()
    revision = scene.run.result_revision
    assert revision is not None, scene.run.message
    return revision


def promote(revision: Revision) -> None:
    promotion.move_alias(
        organization=revision.registered_model.organization,
        model_id=revision.registered_model_id,
        alias="champion",
        revision_id=revision.pk,
        now=NOW,
    )


def test_a_result_is_compared_before_its_accelerators_go_back(scene: Scene) -> None:
    to_compare(scene)
    assert (scene.run.status, scene.held()) == (S.PUBLISHING, 1)
    (asked,) = scene.host.checked
    assert asked["result"].endswith("output")
    assert (asked["is_adapter"], asked["device"], asked["dtype"]) == (False, "cpu", "bfloat16")
    assert asked["cores"] == [0]
    revision = publish(scene, [PASSED])
    assert scene.held() == 0
    assert revision.parity_status == "passed"
    assert revision.parity["base_commit"] == scene.run.base_revision.commit
    assert revision.parity["max_abs_logprob_diff"] == 0.01
    assert revision.parity["template_sha256"] == "t"
    promote(revision)


def test_one_that_is_served_otherwise_than_trained_is_not_promoted(scene: Scene) -> None:
    to_compare(scene)
    wrong = {"way": "merged", "passed": False, "max_abs_logprob_diff": 3.0, "reason": "off by 3"}
    revision = publish(scene, [PASSED, wrong])
    assert revision.parity_status == "failed"
    with pytest.raises(DomainError) as refused:
        promote(revision)
    assert refused.value.code == "parity_failed"
    assert "as merged: off by 3" in refused.value.message
    assert refused.value.remedy
    (told,) = events(scene, "parity")
    assert told.level == EventLevel.ERROR


@pytest.mark.parametrize("checks", [None, [{"way": "adapter", "passed": None, "reason": "DoRA"}]])
def test_what_could_not_be_compared_is_told_and_may_be_promoted(scene: Scene, checks) -> None:
    to_compare(scene)
    revision = publish(scene, checks)
    assert revision.parity_status == "unchecked"
    assert revision.parity["reason"]
    promote(revision)
    (told,) = events(scene, "parity")
    assert told.level == EventLevel.WARN


def test_a_comparison_that_takes_for_ever_is_given_up(scene: Scene) -> None:
    to_compare(scene)
    scene.settle(seconds=parity.CHECK_SECONDS + 1)
    assert scene.run.status == S.SUCCEEDED
    revision = scene.run.result_revision
    assert revision is not None
    assert revision.parity_status == "unchecked"
