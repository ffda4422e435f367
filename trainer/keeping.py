"""What a run writes to disk, and what becomes of it where there is no room."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from trainer import checkpoint, folders
from trainer.checkpoint import Position
from trainer.errors import FailureReason, SpecError, TrainingFailure, explain
from trainer.optimizer import MasterAdamW
from trainer.progress import Kind, ProgressWriter
from trainer.pulse import Pulse
from trainer.spec import TrainSpec

logger = logging.getLogger(__name__)

WRITING_BYTES_PER_SECOND = 20e6  # a slow disk's; hashing and syncing included
DISK_ERRORS = (OSError, SafetensorError)
RESULT_TRIES = 5  # with pauses of 1, 2, 4 and 8 s between them
LONGEST_PAUSE = 8  # times `checkpoint_every_seconds`, while checkpoints cannot be written


class Keeper:
    """Checkpoints and the result of one run."""

    def __init__(self, spec: TrainSpec, *, progress: ProgressWriter, pulse: Pulse) -> None:
        self._spec, self._progress, self._pulse = spec, progress, pulse
        self._folder = Path(spec.checkpoint_path)
        self._usual = self._pause = spec.hyperparameters.checkpoint_every_seconds
        self._tried_at = time.monotonic()
        self.saved_step = 0

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._tried_at >= self._pause

    def save(self, position: Position, *, optimizer: MasterAdamW, device: torch.device) -> None:
        """A checkpoint, and no more of them than are to be kept. Where there is no room for it
        that is told, the newest one before it stays, and `is_due` comes later and later."""
        tensors = optimizer.tensors()
        self._expect(position.step, sum(tensor.nbytes for tensor in tensors.values()))
        try:
            path, size = checkpoint.save(
                self._folder, position=position, tensors=tensors, device=device
            )
        except DISK_ERRORS as error:
            self._put_off(position.step, _shortage(error))
            return
        finally:
            self._tried_at = time.monotonic()
            self._pulse.skip()
        kept = checkpoint.prune(self._folder, kept=self._spec.hyperparameters.checkpoints_kept)
        self.saved_step, self._pause = position.step, self._usual
        self._progress.write(
            Kind.CHECKPOINT, step=position.step, path=str(path), bytes=size, kept=kept
        )
        self._pulse.told()

    def write_result(
        self,
        fill: Callable[[Path], None],
        *,
        facts: dict[str, Any],
        total_bytes: int,
        stopping: Callable[[], bool],
    ) -> None:
        """The result's folder, whole or not at all. A full disk is given some seconds to be
        cleared; then it is a TrainingFailure, and the checkpoint stays."""
        step = int(facts["step"])
        self._expect(step, total_bytes)
        for tries_left in reversed(range(RESULT_TRIES)):
            try:
                folders.write_folder(Path(self._spec.output_path), fill, facts=facts)
                return
            except DISK_ERRORS as error:
                shortage = _shortage(error)
            checkpoint.prune(self._folder, kept=1)
            if not tries_left or stopping():
                break
            message = f"There is no room for the result; it is tried {tries_left} more times."
            self._warn(step, f"{message} ({shortage.message})")
            time.sleep(2 ** (RESULT_TRIES - 1 - tries_left))
        raise TrainingFailure(
            FailureReason.DISK_FULL,
            f"the result could not be written to {self._spec.output_path}: {shortage.message}",
            remedy="free space there: the checkpoint of the last step is kept",
        )

    def _expect(self, step: int, total_bytes: int) -> None:
        self._pulse.expect(step, seconds=total_bytes / WRITING_BYTES_PER_SECOND)

    def _put_off(self, step: int, shortage: TrainingFailure) -> None:
        self._pause = min(2 * self._pause, LONGEST_PAUSE * self._usual)
        checkpoint.prune(self._folder, kept=1)
        before = f"that of step {self.saved_step} stays" if self.saved_step else "there is none yet"
        self._warn(
            step,
            f"There is no room for the checkpoint of step {step}; {before}. It is tried again in "
            f"{self._pause:.0f} s. ({shortage.message})",
        )

    def _warn(self, step: int, message: str) -> None:
        logger.warning(message)
        self._progress.write(Kind.WARNING, reason="disk_full", message=message, step=step)


def finished_before(spec: TrainSpec) -> dict[str, Any] | None:
    """What was told of the result that an earlier attempt wrote whole; None if there is none yet.

    Raises SpecError for a folder that holds something else.
    """
    output = Path(spec.output_path)
    if not output.exists():
        return None
    try:
        facts = folders.read_facts(output)
    except ValueError as damage:
        raise SpecError(
            "output_path", f"exists and is not a whole result: {damage}", remedy="give a new folder"
        ) from damage
    if facts.pop("run_id", None) != spec.run_id:
        raise SpecError("output_path", "holds another run's result", remedy="give a new folder")
    return facts


def _shortage(error: Exception) -> TrainingFailure:
    """What a full disk amounts to; anything else is raised again."""
    shortage = explain(error)
    if shortage.reason != FailureReason.DISK_FULL:
        raise error
    return shortage
