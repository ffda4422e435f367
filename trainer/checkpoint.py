"""Checkpoints: everything that a process started anew needs to go on as if nothing had happened.

<checkpoint_path>/step-00000120/
    tensors.safetensors       trained weights in float32, AdamW's moments
    random.safetensors        state of torch's generators
    state.json                Position and the states of the other generators
    trainer_manifest.json     size and sha256 of each
"""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainer import folders
from trainer.optimizer import MasterAdamW

logger = logging.getLogger(__name__)


@dataclass
class Position:
    """How far a run has come. The data position follows from `step` and the seed alone."""

    fingerprint: str  # of data and settings: what must be equal for a resume to be exact
    step: int = 0
    tokens_total: int = 0
    training_seconds: float = 0.0  # since the first step, over all attempts
    total_seconds: float = 0.0  # since the start of the process, over all attempts
    window_loss: float = 0.0  # sum over the steps since the last line of progress
    window_steps: int = 0
    window_metrics: dict[str, list[float]] = field(default_factory=dict)
    recent_losses: list[float] = field(default_factory=list)
    evaluated_step: int = 0
    eval_loss: float | None = None


def save(
    root: Path, *, position: Position, tensors: Mapping[str, torch.Tensor], device: torch.device
) -> tuple[Path, int]:
    """Write a checkpoint, whole or not at all; returns its folder and bytes."""

    def fill(folder: Path) -> None:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            folder / "tensors.safetensors",
        )
        save_file(_torch_random(device), folder / "random.safetensors")
        state = {"position": dataclasses.asdict(position), "random": _plain_random()}
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

    target = root / f"step-{position.step:08d}"
    return target, folders.write_folder(target, fill, facts={"step": position.step})


def load_newest(root: Path) -> Path | None:
    """The newest checkpoint whose every file matches its hash; damaged ones are removed."""
    folders.remove_all_partial(root)
    for path in _newest_first(root):
        try:
            folders.read_facts(path)
        except ValueError as damage:
            logger.warning("checkpoint %s is skipped and removed: %s", path.name, damage)
            shutil.rmtree(path)
            continue
        return path
    return None


def read_position(path: Path) -> Position:
    return Position(**json.loads((path / "state.json").read_text(encoding="utf-8"))["position"])


def restore_optimizer(path: Path, optimizer: MasterAdamW) -> None:
    """Read one tensor at a time: a resume needs no more memory than a start."""
    with safe_open(path / "tensors.safetensors", framework="pt") as file:
        optimizer.load(set(file.keys()), file.get_tensor)


def restore_random(path: Path, *, device: torch.device) -> None:
    """Set every generator to where it stood."""
    states = load_file(path / "random.safetensors")
    torch.set_rng_state(states["cpu"])
    if "device" in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states["device"], device)
    plain = json.loads((path / "state.json").read_text(encoding="utf-8"))["random"]
    version, numbers, gauss = plain["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = plain["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))


def prune(root: Path, *, kept: int) -> None:
    for path in _newest_first(root)[kept:]:
        shutil.rmtree(path)


def _newest_first(root: Path) -> list[Path]:
    return sorted(root.glob("step-????????"), reverse=True)


def _torch_random(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state(device)
    return states


def _plain_random() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}
