"""What the demo shows: numbered steps with their seconds, and progress that moves in place."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Screen:
    """Prints to standard output; keeps the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._live = sys.stdout.isatty()
        self._last_shown = 0.0
        self._open_line = False

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step: its title at once, its seconds when it is done."""
        self.line(f"\n{len(self.seconds) + 1:>2}  {title}")
        started = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - started
        self.line(f"    done in {self.seconds[title]:.1f} s")

    def line(self, text: str) -> None:
        if self._open_line:
            print()
            self._open_line = False
        print(text, flush=True)

    def progress(self, text: str) -> None:
        """A line that replaces itself on a terminal; elsewhere one every ten seconds."""
        now = time.monotonic()
        if self._live:
            print(f"\r    {text:<96}", end="", flush=True)
            self._open_line = True
        elif now - self._last_shown >= 10:
            print(f"    {text}", flush=True)
            self._last_shown = now

    def table(self, rows: list[list[str]]) -> None:
        """Columns as wide as their widest cell; all but the first aligned to the right."""
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            first, *rest = row
            cells = [first.ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            self.line("    " + "  ".join(cells))
