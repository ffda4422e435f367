"""Reads an answer as it is written: what is thought, what is said, which tools are called.

The pieces joined are the same however the text was cut. Nothing is lost: what looks like a call
and is none comes through as content.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from engines.protocol.dialect import Dialect
from engines.protocol.marks import overlap

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some content, some reasoning, the name of a call that begins, or more of its arguments."""

    kind: Literal["content", "reasoning", "call", "arguments"]
    text: str
    call: int = 0  # which one of the answer's calls


class ToolReader(Protocol):
    """Tells calls from content."""

    def push(self, text: str) -> list[Piece]: ...

    def end(self, *, was_cut: bool) -> list[Piece]:
        """What was held back. `was_cut`: the answer reached its limit, not its end."""
        ...


class AnswerReader:
    """Reads one choice of a chat."""

    def __init__(
        self, dialect: Dialect, *, in_thought: bool, tools: ToolReader | None, one_call: bool
    ) -> None:
        """`in_thought`: the prompt ended with an opened thought. `one_call`: others are dropped."""
        self._thoughts = ThoughtReader(dialect.reasoning, in_thought=in_thought)
        self._tools = tools
        self._one_call = one_call
        self.has_called = False

    @property
    def is_thinking(self) -> bool:
        return self._thoughts.is_inside

    def push(self, text: str) -> list[Piece]:
        thought, said = self._thoughts.push(text)
        return self._pieces(thought, self._said(said))

    def end(self, *, was_cut: bool) -> list[Piece]:
        """What was held back, once nothing more comes."""
        thought, said = self._thoughts.end()
        rest = self._said(said)
        if self._tools is not None:
            rest += self._tools.end(was_cut=was_cut)
        return self._pieces(thought, rest)

    def _said(self, text: str) -> list[Piece]:
        if not text:
            return []
        return [Piece("content", text)] if self._tools is None else self._tools.push(text)

    def _pieces(self, thought: str, said: list[Piece]) -> list[Piece]:
        if self._one_call:
            said = [piece for piece in said if piece.call == 0]
        self.has_called = self.has_called or any(piece.kind == "call" for piece in said)
        return [Piece("reasoning", thought), *said] if thought else said


class ThoughtReader:
    """Tells thoughts from what is said. Line breaks around a thought belong to neither."""

    def __init__(self, parser: str, *, in_thought: bool) -> None:
        self._held = ""
        self._place = "beside"
        if parser == "deepseek_r1" or (parser == "qwen3" and in_thought):
            self._place = "opened"  # inside, though some models write the tag once more
        elif parser == "qwen3":
            self._place = "before"

    @property
    def is_inside(self) -> bool:
        return self._place in ("opened", "begun", "inside")

    def push(self, text: str) -> tuple[str, str]:
        """What was thought and what was said."""
        if self._place == "beside":
            return "", text
        self._held += text
        if self._place in ("before", "opened"):
            self._look_for_opening()
        thought = self._think() if self._place in ("begun", "inside") else ""
        if self._place == "after" and (rest := self._held.lstrip()):
            self._held, self._place = rest, "beside"
        said = ""
        if self._place == "beside":
            said, self._held = self._held, ""
        return thought, said

    def end(self) -> tuple[str, str]:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        if self._place == "after":
            return "", ""
        return (held, "") if self.is_inside else ("", held)

    def _look_for_opening(self) -> None:
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._held, self._place = start.removeprefix(OPEN), "begun"
        elif not OPEN.startswith(start):
            self._place = "begun" if self._place == "opened" else "beside"

    def _think(self) -> str:
        if self._place == "begun":
            self._held = self._held.lstrip("\n")
            if not self._held:
                return ""
            self._place = "inside"
        at = self._held.find(CLOSE)
        if at >= 0:
            thought, self._held = self._held[:at], self._held[at + len(CLOSE) :]
            self._place = "after"
            return thought.rstrip("\n")
        certain = self._held[: len(self._held) - overlap(self._held, CLOSE)].rstrip("\n")
        self._held = self._held[len(certain) :]
        return certain


def parameters_of(tools: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The schema of each parameter of a function; empty where it is not told."""
    schema = tools.get(name)
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}
