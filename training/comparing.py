"""Runs side by side: what differs between them, and their curves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from accounts.models import Organization
from common.errors import InvalidInput, NotFound
from training import curves, selectors
from training.curves import AXES, Point
from training.models import TrainingRun

LEAST, MOST = 2, 8


FACTS: dict[str, Callable[[TrainingRun], Any]] = {
    "base_revision": lambda run: str(run.base_revision),
    "dataset_version": lambda run: str(run.dataset_version),
    "train_split": lambda run: run.train_split,
    "eval_split": lambda run: run.eval_split,
    "method": lambda run: run.method,
    "tuning": lambda run: run.tuning,
    "recipe": lambda run: run.recipe,
    "accelerators": lambda run: run.accelerators_wanted,
    "accelerator_type": lambda run: (
        run.allocation.accelerator_type_slug if run.allocation is not None else None
    ),
}
RESULTS: dict[str, Callable[[TrainingRun], Any]] = {
    "status": lambda run: run.status,
    "step": lambda run: run.step,
    "train_loss": lambda run: run.train_loss,
    "eval_loss": lambda run: run.eval_loss,
    "tokens_total": lambda run: run.tokens_total,
    "seconds": lambda run: (
        (run.ended_at - run.started_at).total_seconds()
        if run.started_at is not None and run.ended_at is not None
        else None
    ),
    "result_revision": lambda run: str(run.result_revision) if run.result_revision else None,
}


@dataclass(frozen=True)
class Row:
    """One thing by its name, with a value for each run, in their order."""

    group: str  # "made_of", "hyperparameters" or "results"
    name: str
    values: Sequence[Any]

    @property
    def differs(self) -> bool:
        return any(value != self.values[0] for value in self.values)


@dataclass(frozen=True)
class RunCurves:
    """Of one run, by the axis that was asked for. `loss_means` is the loss without its extremes."""

    run: TrainingRun
    loss: Sequence[Point]
    loss_means: Sequence[Point]
    eval_loss: Sequence[Point]


def find_runs(
    organization: Organization, run_ids: Sequence[UUID], *, least: int = LEAST
) -> list[TrainingRun]:
    """In the order asked for, each once. Raises InvalidInput (run), NotFound."""
    asked = list(dict.fromkeys(run_ids))
    if not least <= len(asked) <= MOST:
        raise InvalidInput(
            f"{len(asked)} runs cannot be compared.",
            field="run",
            remedy=f"Name {least} to {MOST} different runs.",
        )
    found = {run.pk: run for run in selectors.list_runs(organization).filter(pk__in=asked)}
    if len(found) != len(asked):
        raise NotFound("No such training run.", field="run")
    return [found[pk] for pk in asked]


def table(runs: Sequence[TrainingRun]) -> list[Row]:
    """What they are made of, their hyperparameters, what came of them."""
    rows = [Row("made_of", name, [of(run) for run in runs]) for name, of in FACTS.items()]
    names = sorted({name for run in runs for name in run.hyperparameters})
    rows += [
        Row("hyperparameters", name, [run.hyperparameters.get(name) for run in runs])
        for name in names
    ]
    return rows + [Row("results", name, [of(run) for run in runs]) for name, of in RESULTS.items()]


def run_curves(run: TrainingRun, *, axis: str) -> RunCurves:
    """By step, by tokens trained on, or by hours since the first measurement. Of a long run the
    lowest and highest of every stretch. Raises InvalidInput (by)."""
    if axis not in AXES:
        raise InvalidInput(
            f"{axis!r} is nothing to compare by.",
            field="by",
            remedy=f"Use one of {', '.join(AXES)}.",
        )
    measured = curves.read(run)
    loss = measured.of("loss", axis=axis)
    return RunCurves(run, loss.points, loss.means, measured.of("eval_loss", axis=axis).points)
