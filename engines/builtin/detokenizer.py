"""Tokens to text as they come: never half a character, never a part of a stop string."""

import codecs
from collections.abc import Sequence

from engines.protocol.marks import overlap


class Detokenizer:
    """Joins one sequence's token bytes into text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, raw: bytes) -> str:
        """The text that became certain; bytes of an unfinished character wait for the rest."""
        return self._decoder.decode(raw)


class StopFinder:
    """Looks for stop strings in text that comes piece by piece."""

    def __init__(self, stops: Sequence[str], *, keeps: bool = False) -> None:
        """`keeps`: the one that is met belongs to the answer."""
        self._stops = stops
        self._keeps = keeps
        self._held = ""  # might be the beginning of a stop string

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be shown, and whether a stop string was reached."""
        if not self._stops:
            return text, False
        held = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self._held = ""
            end, start = min(found)  # the first to be whole, however the text was cut
            return held[: end if self._keeps else start], True
        keep = max(overlap(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def rest(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held
