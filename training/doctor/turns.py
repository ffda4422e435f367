"""How much is said: figures of a split, and messages that are odd in themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from training.doctor.examples import Example
from training.doctor.findings import Finding, Ledger, excerpt

HUGE_CHARACTERS = 32_000  # some 8,000 tokens in one message
SAMPLE_CHARACTERS = 2000
AROUND = 40
# UTF-8 read as Latin-1 or Windows-1252: "Ã©", "â€™", "å¼ "; and what a lenient reader left behind.
MANGLED = re.compile("[ÃÂ][\x80-\xbf¡-¿]|â€[\x80-\x9f™œ“”˜]|ï»¿|[å-é][\x80-\xbf¡-¿]{2}|\ufffd")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass
class Figures:
    """What one split holds."""

    examples: int = 0
    messages: int = 0
    with_system: int = 0
    with_tools: int = 0
    characters: int = 0
    longest_characters: int = 0
    longest_line: int = 0
    most_messages: int = 0
    sample: list[dict[str, str]] = field(default_factory=list)  # the first example, shortened

    def merge(self, other: Figures) -> None:
        """Take over the figures of lines further on."""
        if other.longest_characters > self.longest_characters:
            self.longest_characters = other.longest_characters
            self.longest_line = other.longest_line
        self.sample = self.sample or other.sample
        self.most_messages = max(self.most_messages, other.most_messages)
        for name in ("examples", "messages", "with_system", "with_tools", "characters"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def count(figures: Figures, example: Example, row: dict[str, Any]) -> None:
    """Add an example to its split's figures."""
    turns = example.turns
    characters = sum([len(text) for _role, text in turns])
    figures.examples += 1
    figures.messages += len(turns)
    figures.with_system += turns[0][0] == "system"
    figures.with_tools += "tools" in row
    figures.characters += characters
    figures.most_messages = max(figures.most_messages, len(turns))
    if characters > figures.longest_characters:
        figures.longest_characters, figures.longest_line = characters, example.line
    if not figures.sample:
        figures.sample = [
            {"role": role, "content": text[:SAMPLE_CHARACTERS]} for role, text in turns[:50]
        ]


def look(ledger: Ledger, example: Example) -> None:
    """Texts that are huge, mangled, or hold what nobody types; answers that leave no choice."""
    for number, (_role, text) in enumerate(example.turns):
        if len(text) > HUGE_CHARACTERS:
            told = f"{len(text):,} characters"
            ledger.add(_at(example, "huge_turn", number, told, float(len(text))))
        if not text.isprintable():
            control = CONTROL.search(text)
            if control:
                told = f"U+{ord(control[0]):04X}"
                ledger.add(_at(example, "control_characters", number, told))
        if not text.isascii():
            mangled = MANGLED.search(text)
            if mangled:
                begin = max(0, mangled.start() - AROUND)
                told = excerpt(text, begin, mangled.end() + AROUND)
                ledger.add(_at(example, "encoding", number, told))
    if example.other is not None and example.other.strip() == example.answer.strip():
        told = excerpt(example.answer)
        ledger.add(Finding("same_outputs", example.split, example.line, "preferred_output", told))


def _at(example: Example, kind: str, number: int, told: str, score: float | None = None) -> Finding:
    return Finding(kind, example.split, example.line, f"messages.{number}", told, score=score)
