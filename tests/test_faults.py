"""Each thing that goes wrong, on real processes: how long until service is whole, what was lost.

Nothing that had not begun to stream may be lost. `SOAK_SECONDS` says how long the soak at the end
takes (60), during which faults come every few seconds at random; the seed is printed.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from engines.host import ServeSpec
from tests import faults
from tests.faults import Served, served_model
from tests.platform_under_test import running_platform

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
PAUSE_SECONDS = (2.0, 6.0)  # between the end of one fault and the next
MOST_ERRORS = 0.001
SWEEP_SECONDS = 15.0  # the agents' round over strays


Tell = Callable[[str], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Says what was measured, whether the test passes or not."""

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {line} ")

    return say


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with (
        running_platform("--pool", "local", "--cpu-accelerators", "2") as platform,
        served_model(platform) as model,
    ):
        yield model


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (faults.kill_engine, 30),
        (faults.pause_engine, 30),
        (faults.kill_agent, 40),
        (faults.vanish_node, 60),
        (faults.kill_control, 40),
        (faults.restart_broker, 40),
        (faults.restart_database, 40),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_service_becomes_whole_and_loses_nothing_that_had_not_begun(
    served: Served, tell: Tell, fault: Callable[[Served], None], seconds: float
) -> None:
    served.wait_until_whole()
    with served.load() as load:
        time.sleep(1)
        fault(served)
        time.sleep(1)  # what hurts is seen
        took = served.wait_until_whole(seconds) + 1
        time.sleep(1)
    outcome = load.outcome
    tell(
        f"{fault.__name__}: whole after {took:.1f} s, {outcome.answered} answered, "
        f"{outcome.broken} streams broken, longest answer {outcome.longest_seconds:.1f} s"
    )
    assert outcome.answered > 20
    assert outcome.refused == 0, outcome.problems


def test_an_engine_that_hangs_is_replaced(served: Served, tell: Tell) -> None:
    served.wait_until_whole()
    before = {engine.pid for engine in served.engines()}
    with served.load() as load:
        time.sleep(1)
        faults.hang_engine(served)
        took = served.wait(
            lambda: before != {engine.pid for engine in served.engines()} and served.is_whole(),
            90,
            "the engine that hangs is not replaced",
        )
        time.sleep(1)
    tell(
        f"hang: whole after {took:.1f} s, {load.outcome.answered} answered, "
        f"longest answer {load.outcome.longest_seconds:.1f} s"
    )
    assert load.outcome.refused == 0, load.outcome.problems


def test_a_lost_nodes_replicas_come_up_elsewhere(served: Served, tell: Tell) -> None:
    """One accelerator is free on the other node; what does not fit waits until the node is back."""
    served.wait_until_whole()
    lost = served.ready_on().get("node-b", 0)
    assert lost, "nothing ran on the second node"
    with served.load() as load:
        time.sleep(1)
        served.second.vanish(served.engines())
        took = served.wait(
            lambda: "node-b" not in served.ready_on() and sum(served.ready_on().values()) == 2,
            120,
            "the other node does not take over",
        )
        served.second.start()
        back = served.wait_until_whole()
        time.sleep(1)
    tell(f"node lost: made up for after {took:.1f} s, whole {back:.1f} s after it is back")
    assert load.outcome.refused == 0, load.outcome.problems


def test_soak_of_random_faults_under_steady_load(served: Served, tell: Tell) -> None:
    served.wait_until_whole()
    seed = random.randrange(10**6)
    dice = random.Random(seed)
    ends_at = time.monotonic() + SOAK_SECONDS
    happened: list[str] = []
    with served.load() as load:
        while time.monotonic() < ends_at:
            time.sleep(dice.uniform(*PAUSE_SECONDS))
            if not served.engines():  # a fault may hit while another heals, but not the last engine
                continue
            fault = dice.choice(faults.PASSING)
            if fault in (faults.kill_engine, faults.vanish_node) and not served.is_whole():
                continue
            fault(served)
            happened.append(fault.__name__)
        served.wait_until_whole()
        time.sleep(1)
    outcome = load.outcome
    share = outcome.refused / max(outcome.asked, 1)
    tell(
        f"soak (seed {seed}): {len(happened)} faults, {outcome.asked} requests, "
        f"{outcome.refused} refused ({share:.4%}), {outcome.broken} streams broken, "
        f"longest answer {outcome.longest_seconds:.1f} s"
    )
    assert len(happened) >= SOAK_SECONDS / 20
    assert share < MOST_ERRORS, (seed, happened, outcome.problems)
    check_nothing_is_left(served)


def check_nothing_is_left(served: Served) -> None:
    """No process, port, allocation or file once the deployment is deleted."""
    served.wait(
        lambda: len(engine_files(served, "spec.json")) == faults.REPLICAS,
        3 * SWEEP_SECONDS,
        "folders of replicas that are over are not swept",
    )
    specs = [ServeSpec.from_json(path.read_bytes()) for path in engine_files(served, "spec.json")]
    answer = httpx.delete(
        f"{served.platform.base_url}/api/v1/deployments/{served.deployment}/",
        headers={"Authorization": f"Bearer {served.key}"},
    )
    assert answer.status_code == 202

    def is_clean() -> bool:
        held = [row for row in served.rest.rows("allocations/") if row["released_at"] is None]
        return not held and not served.engines() and not engine_files(served, "*")

    served.wait(is_clean, 60, "something is left of the deployment")
    for spec in specs:
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{spec.host}:{spec.port}/health", timeout=2)


def engine_files(served: Served, pattern: str) -> list[Path]:
    """Files of engines on both nodes."""
    return [
        path for path in served.platform.data.glob(f"node/*/engines/*/{pattern}") if path.is_file()
    ]
