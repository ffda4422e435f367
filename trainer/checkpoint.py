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
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
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
    best_step: int | None = None  # of the best evaluation so far, and what it measured
    best_value: float | None = None
    best_eval_loss: float | None = None
    patience_value: float | None = None  # what a later evaluation has to be better than
    evaluations_in_vain: int = 0  # since that was measured
    stopped_early: bool = False
    skipped: list[int] = field(default_factory=list)  # steps left out: their loss was no number
    micro_batch_splits: int = 1  # parts that memory forced micro-batches into


def save(
    root: Path, *, position: Position, tensors: Mapping[str, torch.Tensor], device: torch.device
) -> tuple[Path, int]:
    """Write a checkpoint, whole or not at all; returns its folder and bytes."""

    def fill(folder: Path) -> None:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            folder / "tensors.safetensors",
        )
        save_file(torch_random(device), folder / "random.safetensors")
        state = {"position": dataclasses.asdict(position), "random": _plain_random()}
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

    target = folder_of(root, position.step)
    return target, folders.write_folder(target, fill, facts={"step": position.step})


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


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
    """One tensor at a time, and read rather than mapped: a resume needs no more memory than a
    start, and leaves no pages of the file behind."""
    with _TensorFile(path / "tensors.safetensors") as file:
        optimizer.load(file.names, file.read)


def restore_weights(path: Path, optimizer: MasterAdamW) -> None:
    """The weights alone, to be saved as they were then. Raises ValueError if the checkpoint is not
    whole."""
    folders.read_facts(path)
    with _TensorFile(path / "tensors.safetensors") as file:
        optimizer.load_weights(file.read)


def torch_random(device: torch.device) -> dict[str, torch.Tensor]:
    """Where torch's generators stand."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_torch_random(states: Mapping[str, torch.Tensor], *, device: torch.device) -> None:
    """Put them back there."""
    torch.set_rng_state(states["cpu"])
    if "device" in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states["device"], device)


def restore_random(path: Path, *, device: torch.device) -> None:
    """Set every generator to where it stood."""
    set_torch_random(load_file(path / "random.safetensors"), device=device)
    plain = json.loads((path / "state.json").read_text(encoding="utf-8"))["random"]
    version, numbers, gauss = plain["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = plain["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))


def prune(root: Path, *, kept: int) -> list[int]:
    """Remove all but the newest `kept`, and those that these name as the best; returns their
    steps."""
    paths = _newest_first(root)
    newest, older = paths[:kept], paths[kept:]
    best = {read_position(path).best_step for path in newest} if older else set()
    spared = {folder_of(root, step) for step in best if step is not None}
    for path in older:
        if path not in spared:
            shutil.rmtree(path)
    return [_step_of(path) for path in paths if path in spared or path in newest]


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _newest_first(root: Path) -> list[Path]:
    return sorted(root.glob("step-????????"), reverse=True)


def _plain_random() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}


class _TensorFile:
    """A safetensors file: 8 bytes of the header's length, a JSON header, the tensors' bytes
    (https://huggingface.co/docs/safetensors, Format)."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        (length,) = struct.unpack("<Q", self._file.read(8))
        self._header = json.loads(self._file.read(length))
        self._start = 8 + length
        self.names = frozenset(self._header) - {"__metadata__"}

    def read(self, name: str) -> torch.Tensor:
        """The tensor in memory of its own."""
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        tensor = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
        if end > begin:
            room = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            self._file.seek(self._start + begin)
            while room and (count := self._file.readinto(room)):
                room = room[count:]
            if room:
                raise EOFError(f"{name} is cut short")
        return tensor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64}
