"""Runs side by side: what differs between them, and their curves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from accounts.models import Organization
from common.errors import InvalidInput, NotFound
from training import selectors
from training.models import TrainingRun

LEAST, MOST = 2, 8
MOST_POINTS = 500
AXES = ("step", "tokens", "time")

Point = tuple[float, float]

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
class Curves:
    """Of one run, by the axis that was asked for."""

    run: TrainingRun
    loss: Sequence[Point]
    eval_loss: Sequence[Point]


def find_runs(organization: Organization, run_ids: Sequence[UUID]) -> list[TrainingRun]:
    """In the order asked for, each once. Raises InvalidInput (run), NotFound."""
    asked = list(dict.fromkeys(run_ids))
    if not LEAST <= len(asked) <= MOST:
        raise InvalidInput(
            f"{len(asked)} runs cannot be compared.",
            field="run",
            remedy=f"Name {LEAST} to {MOST} different runs.",
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


def curves(run: TrainingRun, *, axis: str) -> Curves:
    """By step, by tokens trained on, or by hours since the first measurement. Of a long run every
    so many points. Raises InvalidInput (by)."""
    if axis not in AXES:
        raise InvalidInput(
            f"{axis!r} is nothing to compare by.",
            field="by",
            remedy=f"Use one of {', '.join(AXES)}.",
        )
    rows = list(
        selectors.list_metrics(run).values_list("step", "tokens_total", "at", "loss", "eval_loss")
    )
    begun = rows[0][2] if rows else None
    loss: list[Point] = []
    held_out: list[Point] = []
    tokens = 0
    for step, told_tokens, at, train_loss, eval_loss in rows:
        tokens = told_tokens if told_tokens is not None else tokens
        x = {
            "step": float(step),
            "tokens": float(tokens),
            "time": (at - begun).total_seconds() / 3600 if begun is not None else 0.0,
        }[axis]
        if train_loss is not None:
            loss.append((x, train_loss))
        if eval_loss is not None:
            held_out.append((x, eval_loss))
    every = len(loss) // MOST_POINTS + 1
    return Curves(run, loss[::every], held_out)
