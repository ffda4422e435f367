"""Where a run goes on: its newest checkpoint, if that belongs to the same data and settings."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint
from trainer.checkpoint import Position
from trainer.data import TokenSet
from trainer.errors import SpecError
from trainer.optimizer import MasterAdamW
from trainer.spec import TrainSpec

logger = logging.getLogger(__name__)

# Bounds, intervals of saving and what is only looked at: none changes a loss.
_FREE = (
    "checkpoint_every_seconds",
    "checkpoints_kept",
    "log_every_steps",
    "snapshots_kept",
    "sample_every_steps",
    "sample_prompts",
    "early_stopping_patience",
    "early_stopping_min_delta",
    "keep_best",
    "best_metric",
)


def fingerprint(spec: TrainSpec, train: TokenSet) -> str:
    """Of what decides the sequence of losses."""
    given = {
        name: value for name, value in spec.hyperparameters.to_json().items() if name not in _FREE
    }
    settled: dict[str, Any] = {
        "run": (spec.run_id, spec.method, spec.tuning, spec.dtype),
        "hyperparameters": given,
        "data": train.fingerprint(),
        "ranks": spec.ranks,
    }
    return hashlib.sha256(json.dumps(settled, sort_keys=True).encode()).hexdigest()


def take_up(
    path: Path | None, *, own: str, optimizer: MasterAdamW, device: torch.device, seed: int
) -> Position:
    """The position of the checkpoint at `path`, with weights, moments and generators as they were;
    without one the beginning. Raises SpecError where its fingerprint is not our `own`."""
    if path is None:
        torch.manual_seed(seed)
        return Position(fingerprint=own)
    position = checkpoint.read_position(path)
    if position.fingerprint != own:
        raise SpecError(
            "checkpoint_path",
            "holds checkpoints of a run with other data or settings",
            remedy="give every run a folder of its own",
        )
    checkpoint.restore_optimizer(path, optimizer)
    checkpoint.restore_random(path, device=device)
    logger.info("resuming from %s", path.name)
    return position
