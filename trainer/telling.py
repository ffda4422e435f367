"""Lines of progress about steps: means and speeds since the last one."""

from __future__ import annotations

import logging
import time

import torch

from trainer import memory
from trainer.batches import StepPlan
from trainer.checkpoint import Position
from trainer.objectives import Sums, Tally
from trainer.progress import Kind, ProgressWriter
from trainer.pulse import Pulse
from trainer.spec import Hyperparameters

logger = logging.getLogger(__name__)


class Teller:
    def __init__(
        self,
        progress: ProgressWriter,
        *,
        plan: StepPlan,
        given: Hyperparameters,
        device: torch.device,
        pulse: Pulse,
    ) -> None:
        self._progress, self._plan, self._given = progress, plan, given
        self._device, self._pulse = device, pulse
        self.tally = Tally()

    def begin(self, position: Position) -> None:
        """What the next line counts from."""
        self._at, self._step, self._tokens = (
            time.monotonic(),
            position.step,
            position.tokens_total,
        )

    def leave_out(self, seconds: float) -> None:
        """Time that was not spent on steps."""
        self._at += seconds

    def add(self, position: Position, *, loss: float, sums: Sums) -> None:
        position.window_loss += loss
        position.window_steps += 1
        self.tally.add(sums)

    def tell(self, position: Position, *, rate: float, norm: float) -> None:
        seconds = max(time.monotonic() - self._at, 1e-9)
        steps, tokens = position.step - self._step, position.tokens_total - self._tokens
        left = (self._plan.total_steps - position.step) * seconds / max(1, steps)
        if self._given.max_seconds:
            left = min(left, max(0.0, self._given.max_seconds - position.training_seconds))
        loss = position.window_loss / max(1, position.window_steps)
        position.window_loss, position.window_steps = 0.0, 0
        metrics, self.tally = self.tally.means(), Tally()
        self._progress.write(
            Kind.STEP,
            step=position.step,
            total_steps=self._plan.total_steps,
            epoch=round(self._plan.epoch(position.step), 4),
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens_total=position.tokens_total,
            tokens_per_second=round(tokens / seconds, 1),
            seconds_left=round(left, 1),
            memory_bytes=memory.now_bytes(self._device),
            peak_memory_bytes=memory.peak_bytes(self._device),
            patience_seconds=self._pulse.patience_seconds,
            metrics=metrics,
        )
        self._pulse.told()
        self.begin(position)
        logger.info(
            "step %d/%d loss %.4f rate %.2e norm %.2f %.0f tokens/s %.0f s left",
            position.step,
            self._plan.total_steps,
            loss,
            rate,
            norm,
            tokens / seconds,
            left,
        )
