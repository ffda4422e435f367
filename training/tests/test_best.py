"""What a trainer tells of its best evaluation, its checkpoints and its memory, as rows."""

from pathlib import Path
from typing import Any

import pytest

from accounts.tests.make import NOW
from common.errors import InvalidInput
from trainer.progress import Kind, ProgressWriter
from training import planning, progress
from training.models import Checkpoint, TrainingEvent, TrainingRun
from training.tests.make import make_run

pytestmark = pytest.mark.django_db


def told(run: TrainingRun, folder: Path, *lines: tuple[Kind, dict[str, Any]]) -> TrainingRun:
    path = folder / "progress.jsonl"
    with ProgressWriter(path, attempt=run.attempt) as writer:
        for kind, fields in lines:
            writer.write(kind, **fields)
    progress.take_up(run, progress.read(path, offset=run.progress_offset), now=NOW)
    return run


def test_the_best_evaluation_and_the_checkpoints_that_are_there_become_rows(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, hyperparameters={"keep_best": True}, eval_split="heldout")
    look = {"eval_loss": 0.5, "metrics": {"token_accuracy": 0.75}}
    found = {"best_step": 10, "best_value": 0.5}
    told(
        run,
        tmp_path,
        (Kind.STEP, {"step": 10, "loss": 0.6, "peak_memory_bytes": 700, "metrics": {}}),
        (Kind.EVAL, {"step": 10, **look, **found}),
        *((Kind.CHECKPOINT, {"step": step, "path": "/x", "bytes": 1}) for step in (10, 20)),
        (Kind.CHECKPOINT, {"step": 30, "path": "/x", "bytes": 1, "kept": [30, 10]}),
        (Kind.EARLY_STOP, {"step": 30, "message": "Stopped early at step 30 of 90."}),
        (
            Kind.FINISHED,
            {"step": 30, "result_step": 10, "stopped_early": True, "eval_loss": 0.5, **found},
        ),
    )
    row = run.metrics.get(step=10)
    assert (row.loss, row.eval_loss, row.eval_details) == (0.6, 0.5, {"token_accuracy": 0.75})
    assert row.details == {}
    present = Checkpoint.objects.filter(run=run, pruned_at=None)
    assert set(present.values_list("step", flat=True)) == {10, 30}
    assert TrainingEvent.objects.filter(run=run, kind="early_stop", message__contains="30").exists()
    assert (run.step, run.result_step, run.best_step, run.stopped_early) == (30, 10, 10, True)
    assert run.peak_memory_bytes == 700
    assert planning.result_is(run) == (
        "Step 10, the best by eval_loss (0.5); step 30 was where the run stopped early."
    )
    assert planning.result_is(TrainingRun(step=30)) == "Step 30, the last one."


def test_a_best_is_refused_where_nothing_is_held_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_run(tmp_path, hyperparameters={"early_stopping_patience": 3})
    assert refused.value.field == "eval_split"
