"""The whole chain on real processes, while they are killed one after the other."""

import time
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from demo.job import BASE_DEPLOYMENT, TUNED_DEPLOYMENT, Job
from demo.rest import Rest
from demo.screen import Screen
from tests.platform_under_test import RunningPlatform, running_platform

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

# Small enough for a test, large enough that every kill falls into the middle of its step.
HYPERPARAMETERS = {
    "epochs": 20,
    "learning_rate": 1e-3,
    "batch_size": 32,
    "max_length_tokens": 256,
    "max_seconds": 60,
    "checkpoint_every_seconds": 4,
    "log_every_steps": 2,
}
EXAMPLES = {"train": 1500, "heldout": 60, "harder": 20}


class Chaos:
    """Kills each kind of process once, in the step where it hurts, when the step has got going."""

    def __init__(self, platform: RunningPlatform, rest: Rest) -> None:
        self.platform, self.rest = platform, rest
        self.killed: dict[str, float] = {}

    def __call__(self, step: str) -> None:
        if step == "training":
            self._during_training()
        elif step == "evaluation" and "engine" not in self.killed:
            (engine, *_) = self.platform.node_processes("engines.transformers_server")
            self._kill("engine", engine)

    def _during_training(self) -> None:
        (run,) = self.rest.rows("training-runs/")
        saved = [row["step"] for row in self.rest.rows(f"training-runs/{run['id']}/checkpoints/")]
        if "trainer" not in self.killed and saved:
            (trainer, *_) = self.platform.node_processes("trainer")
            self._kill("trainer", trainer)
        elif "trainer" in self.killed and len(self.killed) < 3 and self._quiet_for(6):
            if "agent" not in self.killed:
                self._kill("agent", self.platform.service("manage.py", "agent"))
            else:
                self._kill("control", self.platform.service("celery", "worker"))

    def _quiet_for(self, seconds: float) -> bool:
        return time.monotonic() - max(self.killed.values()) > seconds

    def _kill(self, name: str, process) -> None:
        self.platform.kill(process)
        self.killed[name] = time.monotonic()


def test_the_chain_completes_though_every_process_is_killed_once(tmp_path: Path) -> None:
    with running_platform("--pool", "local") as platform:
        keys = platform.keys()
        rest = Rest(base_url=platform.base_url, key=keys["retail"])
        chaos = Chaos(platform, rest)
        job = Job(
            base_url=platform.base_url,
            keys=keys,
            folder=tmp_path / "demo",
            screen=Screen(),
            month=time.strftime("%Y-%m", time.gmtime()),
            is_alive=chaos,
            hyperparameters=HYPERPARAMETERS,
            least_exact=0.0,  # so short a run learns the form, not the task
            examples=EXAMPLES,
        )
        try:
            report = job.run()
        except Exception as error:
            raise AssertionError(f"{error}\n{platform.logs()}") from error
        assert set(chaos.killed) == {"trainer", "agent", "control", "engine"}

        heldout = report["accuracy"]["heldout"]
        learned = heldout[TUNED_DEPLOYMENT]["fields"]["urgency"]
        assert learned > heldout[BASE_DEPLOYMENT]["fields"].get("urgency", 0.0)
        run = rest.get(f"training-runs/{report['run']}/")
        assert run["attempt"] >= 2, "the killed trainer should have been started again"
        steps = [row["step"] for row in rest.rows(f"training-runs/{run['id']}/metrics/")]
        assert steps == sorted(set(steps)), "a step told twice"
        check_that_nothing_is_billed_twice(rest, report, run)
        check_that_nothing_stays_held(platform, rest, keys)


def check_that_nothing_is_billed_twice(rest: Rest, report: dict, run: dict) -> None:
    # the job itself compares request and token sums with what the clients counted
    lines = report["statement"]["lines"]
    trained = [line for line in lines if line["item"] == "training_tokens"]
    assert sum(float(line["quantity"]) for line in trained) == run["tokens_total"]
    held = [row for row in rest.rows("allocations/") if row["purpose"] == "training"]
    assert len(held) == 1, "one allocation for one run that stayed on its node"
    seconds = [
        line
        for line in lines
        if line["item"] == "accelerator_seconds" and line["purpose"] == "training"
    ]
    began, ended = (datetime.fromisoformat(held[0][name]) for name in ("held_at", "released_at"))
    share = float(held[0]["accelerator_share"])
    assert sum(float(line["quantity"]) for line in seconds) == pytest.approx(
        (ended - began).total_seconds() * share, abs=0.01
    )


def check_that_nothing_stays_held(
    platform: RunningPlatform, rest: Rest, keys: dict[str, str]
) -> None:
    for deployment in rest.rows("deployments/"):
        answer = httpx.delete(
            f"{platform.base_url}/api/v1/deployments/{deployment['id']}/",
            headers={"Authorization": f"Bearer {keys['retail']}"},
        )
        assert answer.status_code == 202
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        open_rows = [row for row in rest.rows("allocations/") if row["released_at"] is None]
        engines = platform.node_processes("engines.transformers_server")
        if not open_rows and not engines:
            break
        time.sleep(0.5)
    assert open_rows == []
    assert engines == []
    assert platform.node_processes("trainer") == []
    names = {row["name"] for row in rest.rows("deployments/")}
    assert not names & {BASE_DEPLOYMENT, TUNED_DEPLOYMENT}
