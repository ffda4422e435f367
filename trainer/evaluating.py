"""A look at the held-out set: its mean loss, and what else the method tells, of all ranks together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer.batches import eval_batches
from trainer.data import TokenSet
from trainer.model import Loaded
from trainer.objectives import Objective, Tally
from trainer.ranks import Ranks
from trainer.steps import agree, joined, works_of

_WEIGHT = "weight"  # among the sums: what the loss is divided by


@dataclass(frozen=True)
class Evaluated:
    loss: float
    metrics: dict[str, float]


def evaluate(
    held_out: TokenSet,
    *,
    objective: Objective,
    loaded: Loaded,
    batch_size: int,
    splits: int,
    share: bool,
    device: torch.device,
    ranks: Ranks,
    stopping: Callable[[], bool],
    beat: Callable[[], None],
) -> Evaluated | None:
    """None when asked to stop meanwhile, which is asked of all ranks together. `splits` is this
    rank's own and changes no figure; `beat` is called after each batch."""
    loss, tally = 0.0, Tally()
    loaded.model.eval()
    try:
        with torch.no_grad():
            for units in ranks.rounds(eval_batches(held_out.lengths, batch_size=batch_size)):
                if stopping():
                    return None
                if units is None:
                    continue
                parts = works_of(objective, held_out, units, splits=splits, share=share)
                for work in joined(objective, loaded, parts, device):
                    part, sums = objective.loss(loaded, work, divisor=1.0)
                    loss += part.item()
                    tally.add({**sums, _WEIGHT: (work.weight, 1.0)})
                beat()
    finally:
        loaded.model.train()
    loss, whole = agree(ranks, loss, tally.sums(), (*objective.told, _WEIGHT))
    weight, _ = whole[_WEIGHT]
    told = Tally({name: sums for name, sums in whole.items() if name != _WEIGHT})
    return Evaluated(loss / weight, told.means())
