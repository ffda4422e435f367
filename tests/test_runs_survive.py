"""Training runs of the tiny model, each killed at a random instant: every one of them must end with
the undisturbed run's losses and, to the last bit, its weights.

`KILLS` says how many (3: a trainer, an agent, and both); `KILLS_SEED` repeats a draw. `KILLS=30 pytest tests/test_runs_survive.py`
is the proof in full.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import httpx
import psutil
import pytest

from demo.job import MODEL_FOLDER
from demo.rest import Rest, StepFailed
from factory import embedded
from tests.faults import SecondNode
from tests.platform_under_test import RunningPlatform, running_platform
from trainer.progress import read_progress

pytestmark = [pytest.mark.processes, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("KILLS", "3"))
SEED = int(os.environ.get("KILLS_SEED", str(random.randrange(10**6))))
TARGETS = ("trainer", "both", "agent")
AT_ONCE = 2  # as many as there are accelerators
SILENCE_SECONDS = 6.0
OVER = {"succeeded", "failed", "cancelled"}
HYPERPARAMETERS = {
    "batch_size": 4,
    "learning_rate": 1e-3,
    "max_length_tokens": 128,
    "checkpoint_every_seconds": 0.4,
    "log_every_steps": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "full": {"tuning": "full", "hyperparameters": HYPERPARAMETERS | {"epochs": 9}},
    "lora": {
        "tuning": "lora",
        "hyperparameters": HYPERPARAMETERS | {"epochs": 9, "lora_dropout": 0.1, "lora_rank": 8},
    },
}


@dataclass(frozen=True)
class Course:
    """What a run came to."""

    losses: dict[int, float]
    eval_loss: float
    weights: str  # SHA-256 of the result's
    seconds: float  # that its trainer lived, about


@dataclass(frozen=True)
class Hit:
    """One kill: of whom, whether a trainer lived that it hit, and the run's attempts."""

    target: str
    trainer: bool
    attempt: int


class Factory:
    """The platform with a base and a dataset, and runs on it."""

    def __init__(self, platform: RunningPlatform, folder: Path) -> None:
        self.platform = platform
        keys = platform.keys()
        self.rest = Rest(base_url=platform.base_url, key=keys["retail"])
        self.operator = Rest(base_url=platform.base_url, key=keys["platform"])
        self.base = self._import_base(self.operator)
        self.data = self._upload(folder)
        self._killing = Lock()

    def start(self, name: str, kind: str) -> str:
        body = {
            "name": name,
            "base_revision": self.base,
            "dataset_version": self.data,
            "eval_split": "heldout",
            "output_name": name,
        }
        return str(self.rest.post("training-runs/", body | KINDS[kind])["id"])

    def see(self, run: str) -> dict[str, Any]:
        """The run as it is, or nothing while the platform cannot say."""
        with suppress(httpx.HTTPError, StepFailed):
            row: dict[str, Any] = self.rest.get(f"training-runs/{run}/")
            return row
        return {"status": "unknown", "step": 0}

    def wait(self, run: str, holds: Callable[[dict[str, Any]], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not holds(row := self.see(run)):
            assert time.monotonic() < deadline, f"{row}\n{self.platform.logs()}"
            time.sleep(0.2)

    def course(self, run: str, *, seconds: float = 0.0) -> Course:
        """Once it is over; it must have succeeded."""
        self.wait(run, lambda row: row["status"] in OVER)
        row = self.see(run)
        assert row["status"] == "succeeded", f"{row}\n{self.platform.logs()}"
        metrics = self.rest.rows(f"training-runs/{run}/metrics/")
        revision = self.rest.get(f"revisions/{row['result_revision']}/")
        assert revision["parity"]["passed"] is True, revision["parity"]
        (weights,) = (
            each for each in revision["files"] if each["path"].endswith("model.safetensors")
        )
        losses = {each["step"]: each["loss"] for each in metrics if each["loss"] is not None}
        return Course(losses, row["eval_loss"], weights["sha256"], seconds)

    def trainer(self, run: str) -> psutil.Process | None:
        return next(iter(self.platform.node_processes("trainer", run)), None)

    def trainer_at(self, run: str, *, step: int) -> psutil.Process:
        """The trainer once it has told of that step, by its own file: the row comes later."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for path in self.platform.data.rglob(f"{run}/progress.jsonl"):
                lines, _ = read_progress(path)
                if any(line["kind"] == "step" and line["step"] >= step for line in lines):
                    trainer = self.trainer(run)
                    assert trainer is not None, self.platform.logs()
                    return trainer
            time.sleep(0.02)
        raise AssertionError(self.platform.logs())

    def kill_agent(self) -> None:
        """One at a time: the next waits until there is one again."""
        with self._killing:
            deadline = time.monotonic() + 60
            while (agent := self.platform.service("manage.py", "agent")) is None:
                assert time.monotonic() < deadline, "no agent to kill"
                time.sleep(0.05)
            agent.kill()
            agent.wait(10)

    def _import_base(self, operator: Rest) -> str:
        wanted = operator.post(
            "imports/",
            {
                "name": "tiny",
                "source_kind": "folder",
                "source": str(MODEL_FOLDER),
                "visibility": "shared",
            },
        )
        operator.wait(f"imports/{wanted['id']}/", until={"succeeded"}, never={"failed"}, seconds=60)
        model = operator.named("models/", "tiny")
        assert model is not None
        return str(operator.rows(f"models/{model['id']}/revisions/")[0]["id"])

    def _upload(self, folder: Path) -> str:
        files = {"train": folder / "train.jsonl", "heldout": folder / "heldout.jsonl"}
        for start, file in enumerate(files.values()):
            file.write_text("".join(line(1000 * start + n) for n in range(40 - 32 * start)))
        dataset = self.rest.post("datasets/", {"name": "parcels"})
        path = f"datasets/{dataset['id']}/versions/"
        return str(self.rest.upload(path, files, {})["id"])


def line(number: int) -> str:
    parcel = number * 7919 % 10_000
    asked = f"Where is parcel {parcel}?" + " Please hurry." * (number % 4)
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": json.dumps({"parcel": parcel})},
    ]
    return json.dumps({"messages": messages}) + "\n"


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    os.environ["FACTORY_TRAINER_SILENCE_SECONDS"] = str(SILENCE_SECONDS)
    try:
        with running_platform("--pool", "local", "--cpu-accelerators", str(AT_ONCE)) as platform:
            yield Factory(platform, tmp_path_factory.mktemp("data"))
    finally:
        del os.environ["FACTORY_TRAINER_SILENCE_SECONDS"]


@pytest.fixture(scope="module")
def undisturbed(factory: Factory) -> dict[str, Course]:
    def whole(kind: str) -> Course:
        run = factory.start(f"whole-{kind}", kind)
        factory.wait(run, lambda row: factory.trainer(run) is not None)
        began = time.monotonic()
        factory.wait(run, lambda row: row["status"] in {"publishing", *OVER})
        return factory.course(run, seconds=time.monotonic() - began)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(KINDS, pool.map(whole, KINDS), strict=True))


@pytest.fixture(scope="module")
def lost(factory: Factory, undisturbed: dict[str, Course]) -> Iterator[str]:
    """A run whose node has just lost power: its agent and its trainer at once. That it is lost takes
    the platform a minute to say; other tests go on meanwhile."""
    second = SecondNode(factory.platform)
    second.start()
    try:
        (home,) = factory.operator.rows("nodes/")
        factory.operator.post(f"nodes/{home['id']}/cordon/", {})
        run = factory.start("node-lost", "lora")
        trainer = factory.trainer_at(run, step=3)
        assert trainer in factory.platform.node_processes("trainer", "node-b"), "it trains at home"
        second.vanish([trainer])
        factory.operator.post(f"nodes/{home['id']}/uncordon/", {})
        yield run
    finally:
        second.stop()


def assert_same(course: Course, reference: Course, told: str) -> None:
    assert course.losses == pytest.approx(reference.losses, abs=1e-6), told
    assert course.eval_loss == pytest.approx(reference.eval_loss, abs=1e-6), told
    assert course.weights == reference.weights, told


def test_killed_at_any_instant_a_run_ends_as_if_it_had_not_been(
    factory: Factory,
    undisturbed: dict[str, Course],
    lost: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dice = random.Random(SEED)
    plans = []
    for number in range(KILLS):
        kind = dice.choice(list(KINDS))
        after = dice.uniform(0, 0.95 * undisturbed[kind].seconds)
        plans.append((f"killed-{number}", kind, TARGETS[number % len(TARGETS)], after))

    def killed(plan: tuple[str, str, str, float]) -> Hit:
        name, kind, target, after = plan
        run = factory.start(name, kind)
        factory.wait(run, lambda row: factory.trainer(run) is not None)
        time.sleep(after)
        step = factory.see(run)["step"]
        if target in ("agent", "both"):
            factory.kill_agent()
        trainer = factory.trainer(run)
        if hit := target in ("trainer", "both") and trainer is not None:
            trainer.kill()
        told = f"seed {SEED}: {plan} at about step {step}"
        assert_same(factory.course(run), undisturbed[kind], told)
        attempt = int(factory.see(run)["attempt"])
        assert attempt == 1 or hit, f"{told}: an agent that was killed leaves its trainers alone"
        return Hit(target, hit, attempt)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        hits = list(pool.map(killed, plans))
    assert len(hits) == KILLS
    assert any(hit.attempt > 1 for hit in hits), "no kill hit a trainer"
    assert len(TARGETS) > KILLS or {hit.target for hit in hits} == set(TARGETS)
    with capsys.disabled():
        kills = ", ".join(f"{target} after {after:.1f} s" for _, _, target, after in plans[:30])
        resumed = sum(hit.attempt > 1 for hit in hits)
        agents = sum(hit.target != "trainer" for hit in hits)
        trainers = sum(hit.trainer for hit in hits)
        sys.stdout.write(
            f"\n  seed {SEED}: {len(hits)} of {KILLS} runs end with the undisturbed run's losses "
            f"and weights; {agents} agents and {trainers} trainers killed, {resumed} runs ended by "
            f"a later attempt ({kills}) "
        )


def test_a_run_goes_on_through_restarts_a_hang_and_a_rest(
    factory: Factory, undisturbed: dict[str, Course]
) -> None:
    """Its trainer stops dead, database and broker are restarted meanwhile, and it is paused and
    resumed."""
    run = factory.start("much-disturbed", "full")
    data = factory.platform.data
    factory.trainer_at(run, step=5).send_signal(signal.SIGSTOP)  # only a kill ends it now
    embedded.stop_postgres(data)
    embedded.stop_redis(data)
    embedded.start_redis(data)
    embedded.start_postgres(data)
    factory.wait(run, lambda row: row.get("attempt", 0) >= 2)
    factory.rest.post(f"training-runs/{run}/pause/", {})
    factory.wait(run, lambda row: row["status"] == "paused")
    assert factory.trainer(run) is None
    held = [row for row in factory.rest.rows("allocations/") if row["released_at"] is None]
    assert held == []
    factory.rest.post(f"training-runs/{run}/resume/", {})
    assert_same(factory.course(run), undisturbed["full"], "much disturbed")
    kinds = [row["kind"] for row in factory.rest.rows(f"training-runs/{run}/events/")]
    assert "paused" in kinds
    assert "trainer_hung" in kinds


def test_a_run_whose_node_is_lost_starts_anew_on_another(
    factory: Factory, undisturbed: dict[str, Course], lost: str
) -> None:
    assert_same(factory.course(lost), undisturbed["lora"], "node lost")
    kinds = [row["kind"] for row in factory.rest.rows(f"training-runs/{lost}/events/")]
    assert "starts_anew" in kinds
