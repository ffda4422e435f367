from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from uuid import uuid4

import pytest

from accounts.tests.make import NOW
from chips.choices import NodeStatus
from chips.models import Allocation, Node
from chips.tests.make import make_allocation, make_node
from common import leases
from models_registry.models import Revision
from models_registry.tests.make import make_model_folder
from planner.placement import AcceleratorRequest
from trainer.fake_host import FakeTrainerHost
from trainer.host import Seen, Sighting
from trainer.progress import Kind
from training import outcomes, placing, reconcile, services
from training.choices import RUN_TRANSITIONS, TERMINAL, RunStatus
from training.models import Checkpoint, TrainingEvent, TrainingMetric, TrainingRun
from training.tests.make import make_run

S = RunStatus


class Scene:
    """A run, a node and a clock."""

    def __init__(self, tmp_path: Path, **options: object) -> None:
        self.tmp_path = tmp_path
        self.node = make_node("node-a")
        self.host = FakeTrainerHost(tmp_path / "node-a", node_name="node-a")
        self.pk = make_run(tmp_path, None, **options).pk
        self.now = NOW

    @property
    def name(self) -> str:
        return str(self.pk)

    @property
    def run(self) -> TrainingRun:
        return TrainingRun.objects.get(pk=self.pk)

    def place(self) -> bool:
        return placing.place_run(self.pk, now=self.now)

    def step(self, seconds: float = 0) -> bool:
        self.now += timedelta(seconds=seconds)
        return reconcile.step_run(self.pk, host=self.host, now=self.now)

    def settle(self, seconds: float = 0) -> None:
        """Steps until nothing moves any more."""
        self.now += timedelta(seconds=seconds)
        for _ in range(10):
            if not self.step():
                return
        raise AssertionError("it never settles")

    def begin(self) -> None:
        """Placed, started, its first steps told."""
        self.place()
        self.step()
        self.host.tell(Kind.STARTED, total_steps=20, resumed_from_step=0)
        self.host.tell(Kind.STEP, step=10, total_steps=20, loss=2.5, tokens_total=1000)
        self.step()

    def finish_training(self) -> None:
        """The trainer writes its result and ends."""
        folder = make_model_folder(self.tmp_path / "result", seed=9)
        self.host.write_result({p.name: p.read_bytes() for p in folder.iterdir()})
        self.host.tell(Kind.FINISHED, step=20, train_loss=0.5, eval_loss=0.6, tokens_total=2000)
        self.host.exit(self.name, 0)

    def held(self) -> int:
        return Allocation.objects.filter(holder_id=self.pk, released_at=None).count()


@pytest.fixture
def scene(tmp_path: Path, db: None) -> Scene:
    return Scene(tmp_path, eval_split="heldout")


def test_a_run_is_placed_started_followed_published(scene: Scene) -> None:
    assert scene.place()
    assert scene.run.status == S.STARTING
    assert scene.step()
    spec = scene.host.specs[0]
    assert (spec.attempt, spec.device, spec.cores, spec.threads) == (1, "cpu", (0,), 1)
    assert Path(spec.train_path).read_text().count("\n") == 8
    assert spec.eval_path is not None
    assert (Path(spec.base_path) / "config.json").exists()

    assert not scene.step()  # it loads, and has not said anything
    scene.host.tell(Kind.STARTED, total_steps=20, resumed_from_step=0)
    scene.host.tell(
        Kind.STEP, step=10, total_steps=20, loss=2.5, tokens_total=900, tokens_per_second=50.0,
        seconds_left=18.0, learning_rate=1e-4, grad_norm=1.0, memory_bytes=5,
    )  # fmt: skip
    scene.host.tell(Kind.EVAL, step=10, eval_loss=2.7)
    scene.host.tell(Kind.CHECKPOINT, step=10, path="/x/step-10", bytes=7)
    scene.host.logs[scene.name] = "step 10\0"
    assert scene.step()
    run = scene.run
    assert (run.status, run.started_at) == (S.RUNNING, NOW)
    assert (run.step, run.total_steps, run.train_loss, run.eval_loss) == (10, 20, 2.5, 2.7)
    assert (run.tokens_total, run.tokens_per_second, run.seconds_left) == (900, 50.0, 18.0)
    assert run.log_tail == "step 10"
    metric = TrainingMetric.objects.get(run=run)
    assert (metric.loss, metric.eval_loss, metric.memory_bytes) == (2.5, 2.7, 5)
    assert Checkpoint.objects.get(run=run).size_bytes == 7

    scene.finish_training()
    scene.settle()
    run = scene.run
    assert (run.status, run.tokens_total, run.train_loss) == (S.SUCCEEDED, 2000, 0.5)
    assert run.ended_at is not None
    assert scene.held() == 0
    assert Allocation.objects.get().release_reason == "trained"
    revision = run.result_revision
    assert revision is not None
    assert revision.registered_model.name == "tune-result"
    assert (revision.kind, revision.parent) == ("full", run.base_revision)
    assert revision.lineage["training_run"]["id"] == scene.name
    assert revision.lineage["dataset_version"]["id"] == str(run.dataset_version_id)
    assert [event.kind for event in TrainingEvent.objects.filter(run=run).order_by("id")] == [
        "placed",
        "started",
        "finished",
        "published",
    ]
    assert Checkpoint.objects.filter(pruned_at=None).count() == 0


def test_every_write_may_be_the_last_before_a_kill(scene: Scene, monkeypatch) -> None:
    """Each step is cut off before its write once; the next one gets to the same place."""

    def die(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    def killed_then(act, seconds: float = 20) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(leases, "finish", die)
            patch.setattr(leases, "release", die)
            with pytest.raises(RuntimeError):
                act()
        scene.now += timedelta(seconds=61)  # its lease runs out
        act()

    killed_then(scene.place)
    assert scene.held() == 1
    killed_then(scene.step)
    assert len(scene.host.specs) == 1  # started once, seen running the second time
    scene.host.tell(Kind.STARTED, total_steps=20, resumed_from_step=0)
    scene.host.tell(Kind.STEP, step=10, total_steps=20, loss=2.5, tokens_total=1000)
    killed_then(scene.step)
    assert scene.run.status == S.RUNNING
    scene.finish_training()
    killed_then(scene.step)
    assert scene.run.status == S.PUBLISHING
    killed_then(scene.step)
    assert scene.held() == 0
    killed_then(scene.step)
    run = scene.run
    assert (run.status, run.tokens_total, run.attempt) == (S.SUCCEEDED, 2000, 1)
    assert Revision.objects.filter(registered_model__name="tune-result").count() == 1
    assert TrainingMetric.objects.count() == 1
    assert Allocation.objects.count() == 1


def test_a_killed_trainer_is_started_again_and_resumes(scene: Scene) -> None:
    scene.begin()
    scene.host.tell(Kind.CHECKPOINT, step=10, path="/x", bytes=1)
    scene.host.exit(scene.name, -9)
    scene.step()
    run = scene.run
    assert (run.status, run.status_reason) == (S.STARTING, "trainer_exited")
    assert (run.attempt, run.failures) == (2, 1)
    assert "signal 9" in run.message
    assert scene.held() == 1
    assert not scene.step()  # it waits a little
    assert len(scene.host.specs) == 1
    scene.step(seconds=2)
    assert [spec.attempt for spec in scene.host.specs] == [1, 2]
    scene.host.tell(Kind.STARTED, total_steps=20, resumed_from_step=10)
    scene.host.tell(Kind.STEP, step=10, total_steps=20, loss=2.4, tokens_total=1000)
    scene.host.tell(Kind.CHECKPOINT, step=15, path="/x", bytes=1)
    scene.step()
    run = scene.run
    assert (run.status, run.failures, run.tokens_total) == (S.RUNNING, 0, 1000)
    assert TrainingMetric.objects.get().loss == 2.4  # the later attempt's word counts


def test_a_trainer_that_dies_again_and_again_fails_the_run(scene: Scene) -> None:
    scene.begin()
    for attempt in range(1, outcomes.MAX_FAILURES + 1):
        assert scene.run.attempt == attempt
        scene.host.exit(scene.name, 1)
        scene.step(seconds=100)
        scene.step(seconds=100)
    run = scene.run
    assert (run.status, run.status_reason) == (S.FAILED, "trainer_exited")
    assert "status 1" in run.message
    assert len(scene.host.specs) == outcomes.MAX_FAILURES
    assert scene.held() == 0
    assert run.ended_at is not None


@pytest.mark.parametrize("reason", sorted(reconcile.HOPELESS))
def test_a_hopeless_failure_is_not_tried_again(scene: Scene, reason: str) -> None:
    scene.begin()
    scene.host.tell(Kind.FAILED, reason=reason, message="It broke.", remedy="Do otherwise.")
    assert not scene.step()  # still leaving
    scene.host.exit(scene.name, 1)
    scene.step()
    run = scene.run
    assert (run.status, run.status_reason) == (S.FAILED, reason)
    assert run.message == "It broke. Do otherwise."
    assert scene.held() == 0


def test_a_full_disk_is_tried_again(scene: Scene) -> None:
    scene.begin()
    scene.host.tell(Kind.FAILED, reason="disk_full", message="No room.", remedy="Make some.")
    scene.host.exit(scene.name, 1)
    scene.step()
    assert (scene.run.status, scene.run.message) == (S.STARTING, "No room.")


def test_a_yielded_trainer_resumes_at_once_where_it_was(scene: Scene) -> None:
    scene.begin()
    scene.host.tell(Kind.YIELDED, step=11)
    scene.host.exit(scene.name, 0)
    scene.step()
    run = scene.run
    assert (run.status, run.attempt, run.failures) == (S.STARTING, 2, 0)
    scene.step(seconds=2)
    assert scene.host.specs[-1].attempt == 2


def test_a_yielded_trainer_leaves_a_node_that_is_being_emptied(scene: Scene) -> None:
    scene.begin()
    Node.objects.update(cordoned_at=NOW)
    scene.host.tell(Kind.YIELDED, step=11)
    scene.host.exit(scene.name, 0)
    scene.step()
    assert (scene.run.status, scene.held()) == (S.PENDING, 0)
    assert not scene.place()
    assert scene.run.status_reason == "nothing_fits"
    Node.objects.update(cordoned_at=None)
    assert scene.place()
    scene.step()
    assert scene.host.specs[-1].attempt == 2
    assert not TrainingEvent.objects.filter(kind="starts_anew").exists()


def test_nothing_free_leaves_it_pending_and_says_why(scene: Scene) -> None:
    make_allocation(request=AcceleratorRequest(accelerators=2))
    assert not scene.place()
    run = scene.run
    assert (run.status, run.status_reason) == (S.PENDING, "nothing_fits")
    assert "node-a" in run.message
    assert "Wait" in run.message


def test_cancel_before_it_was_placed(scene: Scene) -> None:
    services.cancel_training_run(organization=scene.run.organization, run_id=scene.pk, now=NOW)
    assert not scene.place()
    assert (scene.run.status, scene.held()) == (S.CANCELLED, 0)


def test_cancel_ends_the_trainer_and_frees_the_accelerators(scene: Scene) -> None:
    scene.begin()
    services.cancel_training_run(organization=scene.run.organization, run_id=scene.pk, now=NOW)
    scene.step()
    assert scene.run.status == S.STOPPING
    scene.step()
    assert scene.host.stopped == [(scene.name, False)]
    assert scene.held() == 1  # it still runs
    scene.step(seconds=outcomes.STOP_SECONDS + 1)
    assert scene.host.stopped[-1] == (scene.name, True)
    scene.step()
    run = scene.run
    assert (run.status, scene.held()) == (S.CANCELLED, 0)
    assert run.result_revision is None


def test_cancel_while_it_waits_to_be_started_again(scene: Scene) -> None:
    scene.begin()
    scene.host.exit(scene.name, -9)
    scene.step()
    services.cancel_training_run(organization=scene.run.organization, run_id=scene.pk, now=NOW)
    scene.settle()
    assert (scene.run.status, scene.held()) == (S.CANCELLED, 0)
    assert len(scene.host.specs) == 1


def test_a_lost_node_sends_the_run_elsewhere_where_it_starts_anew(scene: Scene) -> None:
    scene.begin()
    scene.host.tell(Kind.CHECKPOINT, step=10, path="/x", bytes=1)
    scene.step()
    Node.objects.update(status=NodeStatus.LOST)
    assert placing.leave_lost_node(scene.pk, now=scene.now)
    assert (scene.run.status, scene.held()) == (S.PENDING, 0)
    make_node("node-b")
    assert scene.place()
    old, scene.host = scene.host, FakeTrainerHost(scene.tmp_path / "b", node_name="node-b")
    assert not reconcile.step_run(scene.pk, host=old, now=scene.now)  # no longer its business
    scene.step()
    assert scene.host.specs[0].attempt == 2
    scene.host.tell(Kind.STARTED, total_steps=20, resumed_from_step=0)
    scene.host.tell(Kind.STEP, step=5, total_steps=20, loss=3.0, tokens_total=500)
    scene.step()
    run = scene.run
    assert (run.status, run.step) == (S.RUNNING, 5)
    assert run.tokens_total == 1000  # told, and perhaps billed, before: not counted again
    assert TrainingEvent.objects.filter(kind="starts_anew").count() == 1
    assert Checkpoint.objects.get().pruned_at is not None
    assert reconcile.sweep_node(host=old, now=NOW) == {scene.name}
    assert reconcile.sweep_node(host=scene.host, now=scene.now) == frozenset()


def test_a_cancelled_run_on_a_lost_node_is_over(scene: Scene) -> None:
    scene.begin()
    services.cancel_training_run(organization=scene.run.organization, run_id=scene.pk, now=NOW)
    Node.objects.update(status=NodeStatus.LOST)
    placing.leave_lost_node(scene.pk, now=scene.now)
    assert (scene.run.status, scene.held()) == (S.CANCELLED, 0)


def test_a_trainer_unknown_to_its_node_is_started_again(scene: Scene) -> None:
    scene.begin()
    scene.host.lose_folder(scene.name)
    scene.step()
    assert (scene.run.status, scene.run.status_reason) == (S.STARTING, "trainer_lost")


def test_a_trainer_of_an_earlier_attempt_is_killed_before_the_next_starts(scene: Scene) -> None:
    scene.begin()
    TrainingRun.objects.update(attempt=2, status=S.STARTING)
    scene.step()
    assert scene.host.stopped == [(scene.name, True)]
    scene.step()
    assert [spec.attempt for spec in scene.host.specs] == [1, 2]


def test_a_start_that_cannot_be_is_tried_and_then_given_up(scene: Scene, settings) -> None:
    scene.place()
    settings.FACTORY_STORAGE = str(scene.tmp_path / "nothing-here")
    for _ in range(outcomes.MAX_FAILURES):
        scene.step(seconds=100)
    run = scene.run
    assert (run.status, run.status_reason) == (S.FAILED, "blob_missing")
    assert scene.held() == 0


def test_a_result_that_cannot_be_published_is_tried_and_then_given_up(scene: Scene) -> None:
    scene.begin()
    scene.finish_training()
    (scene.host.folder(scene.name) / "output" / "model.safetensors").write_bytes(b"torn")
    for _ in range(outcomes.MAX_FAILURES + 3):
        scene.step(seconds=100)
    run = scene.run
    assert run.status == S.FAILED
    assert "model.safetensors" in run.message
    assert scene.held() == 0


def test_an_adapter_is_published_as_one(tmp_path: Path, db: None) -> None:
    scene = Scene(tmp_path, tuning="lora")
    scene.begin()
    folder = make_model_folder(tmp_path / "result", seed=9)
    data = (folder / "model.safetensors").read_bytes()
    config = '{"base_model_name_or_path": "x", "peft_type": "LORA", "r": 8}'
    scene.host.write_result({"adapter_model.safetensors": data, "adapter_config.json": config})
    scene.host.tell(Kind.FINISHED, step=20, train_loss=0.5, tokens_total=2000)
    scene.host.exit(scene.name, 0)
    scene.settle()
    revision = scene.run.result_revision
    assert revision is not None, scene.run.message
    assert (revision.kind, revision.parent) == ("adapter", scene.run.base_revision)


def test_accelerators_are_held_until_a_finished_trainer_is_gone(scene: Scene) -> None:
    scene.begin()
    scene.finish_training()
    scene.host.sightings[scene.name] = Sighting(Seen.RUNNING, 1)  # writing its last bytes
    scene.settle()
    assert (scene.run.status, scene.held()) == (S.PUBLISHING, 1)
    scene.step(seconds=outcomes.STOP_SECONDS + 1)
    scene.settle()
    assert (scene.run.status, scene.held()) == (S.SUCCEEDED, 0)


def test_a_pending_runs_trainer_is_stopped_and_its_folder_kept(scene: Scene) -> None:
    scene.begin()
    TrainingRun.objects.update(status=S.PENDING)
    assert reconcile.sweep_node(host=scene.host, now=scene.now) == frozenset()
    assert scene.host.stopped == [(scene.name, False)]
    scene.now += timedelta(seconds=outcomes.STOP_SECONDS + 1)
    reconcile.sweep_node(host=scene.host, now=scene.now)  # it does not end, and holds nothing
    assert scene.host.stopped[1:] == [(scene.name, True)]
    assert scene.host.folder(scene.name).exists()


def test_folders_of_runs_that_are_over_are_removed(scene: Scene) -> None:
    scene.begin()
    scene.host.folder(str(uuid4())).mkdir()
    TrainingRun.objects.update(status=S.FAILED)
    assert len(reconcile.sweep_node(host=scene.host, now=scene.now)) == 2
    assert not scene.host.folder(scene.name).exists()


def test_only_one_step_at_a_time(scene: Scene) -> None:
    scene.place()
    later: datetime = NOW + timedelta(seconds=10)
    TrainingRun.objects.update(lease_token=uuid4(), leased_until=later)
    assert not scene.step()
    assert not scene.host.specs
    scene.step(seconds=11)
    assert scene.host.specs


def test_an_agent_started_again_need_not_wait_for_its_predecessors_lease(scene: Scene) -> None:
    scene.place()
    TrainingRun.objects.update(lease_token=uuid4(), leased_until=NOW + timedelta(seconds=10))
    assert reconcile.break_leases(uuid4()) == 0
    assert not scene.step()
    assert reconcile.break_leases(scene.node.pk) == 1
    assert scene.step()


def test_next_status_only_goes_where_it_may() -> None:
    flags = [(True, False)] * 5
    endings = (None, "finished", "yielded", "failed")
    moved = 0
    for status, seen, ending in product(S, Seen, endings):
        for wanted, paused, has_begun, may_retry, may_stay in product(*flags):
            to, reason = reconcile.next_status(
                status=status,
                wanted=wanted,
                paused=paused,
                seen=seen,
                ending=ending,
                has_begun=has_begun,
                may_retry=may_retry,
                may_stay=may_stay,
            )
            assert bool(reason) == (to != status or reason in ("resumes", "trainer_exited"))
            assert to == status or to in RUN_TRANSITIONS[status]
            assert not (reason and status in TERMINAL)
            moved += bool(reason)
    assert moved > 100
