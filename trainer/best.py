"""Which look at the held-out set was the best, and when none is worth waiting for."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.checkpoint import Position
from trainer.spec import LOWER_IS_BETTER, Hyperparameters


def take_up(
    position: Position, given: Hyperparameters, *, eval_loss: float, metrics: Mapping[str, float]
) -> bool:
    """Note what was measured at the position's step; whether that is the best so far.

    Every gain makes a new best. For patience only a gain of more than `early_stopping_min_delta`
    over the last one that counted does, so that many small ones do in the end. What could not be
    measured (no number, or no such answers in the set) is no gain.
    """
    value = eval_loss if given.best_metric == "eval_loss" else metrics.get(given.best_metric)
    if _gain(value, position.patience_value, given.best_metric) > given.early_stopping_min_delta:
        position.patience_value, position.evaluations_in_vain = value, 0
    else:
        position.evaluations_in_vain += 1
    patience = given.early_stopping_patience
    position.stopped_early = patience is not None and position.evaluations_in_vain >= patience
    if _gain(value, position.best_value, given.best_metric) <= 0:
        return False
    position.best_step, position.best_value = position.step, value
    position.best_eval_loss = eval_loss
    return True


def _gain(value: float | None, before: float | None, metric: str) -> float:
    if value is None or value != value:
        return 0.0
    if before is None:
        return float("inf")
    return before - value if metric in LOWER_IS_BETTER else value - before
