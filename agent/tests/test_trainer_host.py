import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.utils import timezone

from accounts.tests.make import NOW, make_organization
from agent.supervisor import Life, ProcessSupervisor
from agent.trainer_host import PROJECT, LocalTrainerHost
from chips.models import Allocation
from chips.tests.make import make_node, seen_cpu
from models_registry import services as registry
from models_registry.models import Revision
from trainer.host import Seen
from trainer.spec import TrainSpec
from training import placing, reconcile, services
from training.choices import RunStatus
from training.models import Checkpoint, DatasetSplit, TrainingMetric, TrainingRun
from training.tests.make import chat_lines

pytestmark = pytest.mark.processes

MAKE_BASE = "import sys; from pathlib import Path; from trainer.tests import make; "


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LocalTrainerHost]:
    made = make_host(tmp_path)
    yield made
    made.sweep(lambda names: ())


def make_host(tmp_path: Path) -> LocalTrainerHost:
    return LocalTrainerHost(
        root=tmp_path / "runs", cache=tmp_path / "cache", node_name="this-machine"
    )


def make_base(folder: Path) -> Path:
    """Made by a process of its own: this one does not load torch."""
    program = MAKE_BASE + "make.make_base(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=PROJECT, check=True)
    return folder


def wait_for(happened: Callable[[], bool], *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def pid_of(host: LocalTrainerHost, tmp_path: Path, name: str) -> int:
    sight = ProcessSupervisor(tmp_path / "runs").observe(name)
    assert sight.life is Life.RUNNING
    assert sight.pid is not None
    return sight.pid


def test_a_refused_spec_is_seen_as_an_exit_of_its_attempt(
    host: LocalTrainerHost, tmp_path: Path
) -> None:
    assert host.observe("run-1").seen is Seen.ABSENT
    spec = TrainSpec(
        run_id="run-1",
        attempt=3,
        base_path=str(tmp_path / "no-such-base"),
        train_path=str(tmp_path / "train.jsonl"),
        output_path=str(tmp_path / "output"),
        checkpoint_path=str(tmp_path / "checkpoints"),
        progress_path=str(tmp_path / "progress.jsonl"),
    )
    host.start(spec, environment={})
    wait_for(lambda: host.observe("run-1").seen is Seen.EXITED)
    sighting = host.observe("run-1")
    assert (sighting.attempt, sighting.returncode) == (3, 1)
    assert "run-1" in host.log_tail("run-1")
    assert host.sweep(lambda names: names) == frozenset()
    assert host.sweep(lambda names: ()) == {"run-1"}
    assert host.observe("run-1").seen is Seen.ABSENT


@pytest.mark.django_db
def test_a_real_run_outlives_kills_of_its_trainer_and_its_agent(
    host: LocalTrainerHost, tmp_path: Path, settings
) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
    core = min(os.sched_getaffinity(0))
    make_node("this-machine", accelerators=[seen_cpu(0, cores=(core,))])
    run = want_run(tmp_path)

    def step() -> TrainingRun:
        nonlocal host
        reconcile.step_run(run.pk, host=host, now=timezone.now())
        time.sleep(0.05)
        return TrainingRun.objects.get(pk=run.pk)

    assert placing.place_run(run.pk, now=timezone.now())
    wait_for(lambda: step().step > 5 and Checkpoint.objects.exists())
    os.kill(pid_of(host, tmp_path, str(run.pk)), signal.SIGKILL)
    wait_for(lambda: step().attempt == 2)
    assert "signal 9" in step().message
    wait_for(lambda: step().status == RunStatus.RUNNING)
    host = make_host(tmp_path)  # the agent was restarted, and finds the trainer again
    before = pid_of(host, tmp_path, str(run.pk))
    assert step().status == RunStatus.RUNNING
    assert pid_of(host, tmp_path, str(run.pk)) == before
    wait_for(lambda: step().status in (RunStatus.SUCCEEDED, RunStatus.FAILED))

    run = step()
    assert run.status == RunStatus.SUCCEEDED, f"{run.message}\n{run.log_tail}"
    assert (run.attempt, run.step, run.total_steps) == (2, 200, 200)
    assert run.train_loss is not None
    assert run.eval_loss is not None
    first = TrainingMetric.objects.filter(run=run).order_by("step").first()
    assert first is not None
    assert run.train_loss < (first.loss or 0)
    told = TrainingMetric.objects.filter(run=run).values_list("step", flat=True)
    assert sorted(told) == sorted(set(told))
    assert not Allocation.objects.filter(released_at=None).exists()
    check_result(run)


def want_run(tmp_path: Path) -> TrainingRun:
    retail = make_organization()
    base = registry.publish_folder(
        organization=retail,
        name="tiny",
        folder=make_base(tmp_path / "base"),
        kind="base",
        source_kind="folder",
        now=NOW,
    )
    dataset = services.create_dataset(organization=retail, name="tickets", now=NOW)
    version = services.upload_version(
        organization=retail,
        dataset_id=dataset.pk,
        files={
            "train": io.BytesIO(chat_lines(64)),
            "heldout": io.BytesIO(chat_lines(8, start=900)),
        },
        tokenizer_revision=base,
        now=NOW,
    )
    return services.create_training_run(
        organization=retail,
        name="tune",
        base_revision_id=base.pk,
        dataset_version_id=version.pk,
        output_name="tuned",
        tuning="full",
        eval_split="heldout",
        hyperparameters={
            "max_steps": 200,
            "epochs": 1000,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "checkpoint_every_seconds": 0.5,
        },
        now=NOW,
    )


def check_result(run: TrainingRun) -> None:
    revision = run.result_revision
    assert isinstance(revision, Revision)
    paths = set(revision.artifacts.values_list("path", flat=True))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= paths
    assert revision.lineage["dataset_version"]["id"] == str(run.dataset_version_id)
    assert revision.parameter_count == run.base_revision.parameter_count
    # what the check counted is what the trainer read: one epoch's tokens, by its own count
    split = DatasetSplit.objects.get(version=run.dataset_version, name="train")
    started = run.events.filter(kind="started").first()
    assert started is not None
    assert started.data["train_tokens"] == split.token_count
