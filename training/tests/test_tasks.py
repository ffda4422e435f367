from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest

from chips.tests.make import make_node
from common import slots
from common.ids import new_id
from training import evaluate, placing, tasks
from training.choices import RunStatus
from training.models import TrainingRun
from training.tests.make import make_run

pytestmark = pytest.mark.django_db


def test_old_runs_that_fit_nowhere_do_not_keep_the_others_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "PLACED_A_SWEEP", 1)
    make_run(tmp_path, name="stuck", pool_name="nowhere")
    fits = make_run(tmp_path, name="fits")
    make_node("node-a")
    tasks.sweep()
    fits.refresh_from_db()
    assert fits.status == RunStatus.STARTING


def test_a_run_that_cannot_be_dealt_with_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, fits = make_run(tmp_path, name="broken"), make_run(tmp_path, name="fits")
    make_node("node-a")
    place = placing.place_run

    def place_or_crash(run_id: UUID, *, now: datetime) -> bool:
        if run_id == broken.pk:
            raise RuntimeError("nobody thought of this")
        return place(run_id, now=now)

    monkeypatch.setattr(placing, "place_run", place_or_crash)
    tasks.sweep()
    assert TrainingRun.objects.get(pk=fits.pk).status == RunStatus.STARTING


def test_slow_work_leaves_threads_for_the_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    stepped: list[UUID] = []

    def step(evaluation_id: UUID, *, now: datetime) -> bool:
        stepped.append(evaluation_id)
        return False

    monkeypatch.setattr(evaluate, "step_evaluation", step)
    evaluation_id = str(new_id())
    with ExitStack() as stack:
        held = [stack.enter_context(slots.slow()) for _ in range(slots.SLOW + 1)]
        assert held == [True] * slots.SLOW + [False]
        tasks.evaluate_step(evaluation_id=evaluation_id)
        assert stepped == []
    tasks.evaluate_step(evaluation_id=evaluation_id)
    assert stepped == [UUID(evaluation_id)]
