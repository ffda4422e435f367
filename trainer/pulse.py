"""Signs of life: how whoever follows a run tells a slow trainer from one that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.progress import Kind, ProgressWriter

ALIVE_SECONDS = 10.0  # between two lines, when there is nothing else to tell
PATIENCE = 20  # times the longest silence so far


class Pulse:
    """Call `beat` wherever the run gets on: after each micro-batch, each batch of an evaluation."""

    def __init__(
        self, progress: ProgressWriter, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._clock = progress, clock
        self._last = self._told = clock()
        self._longest = 0.0

    @property
    def patience_seconds(self) -> float:
        """How long a silence from here on needs no explanation."""
        return round(PATIENCE * self._longest, 3)

    def beat(self, step: int) -> None:
        """The run has got on; told if nothing has been for a while."""
        now = self._clock()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        if now - self._told >= ALIVE_SECONDS:
            self._tell(step, self.patience_seconds)

    def told(self) -> None:
        """Another line was written."""
        self._told = self._clock()

    def expect(self, step: int, *, seconds: float) -> None:
        """What comes next takes up to `seconds` at a stretch, which says nothing about the pace."""
        if seconds > ALIVE_SECONDS:
            self._tell(step, max(seconds, self.patience_seconds))

    def skip(self) -> None:
        """What took so long was expected."""
        self._last = self._clock()

    def _tell(self, step: int, patience_seconds: float) -> None:
        self._progress.write(Kind.ALIVE, step=step, patience_seconds=patience_seconds)
        self.told()
