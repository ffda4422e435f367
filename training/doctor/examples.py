"""Canonical lines of every kind, seen alike: who says what, what is asked, what is to be answered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Example:
    """`turns` are all (role, text) pairs; `asked` the text before the answer without the system's;
    `answer` what is to be learnt (the preferred one); `other` what is not."""

    split: str
    line: int
    turns: list[tuple[str, str]]
    asked: str
    answer: str
    other: str | None
    label: bool | None

    def whole_hash(self) -> int:
        """64 bits of all that is said and by whom."""
        digest = hashlib.blake2b(digest_size=8)
        for role, text in self.turns:
            digest.update(f"{role} {len(text)} {text}".encode("utf-8", "surrogatepass"))
        if self.label is not None:
            digest.update(b"1" if self.label else b"0")
        return int.from_bytes(digest.digest(), "little")

    def question_hash(self) -> int:
        data = self.asked.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def read(split: str, line: int, row: dict[str, Any]) -> Example:
    """A canonical line as an example."""
    if "input" in row:
        before = [_turn(message) for message in row["input"]["messages"]]
        answer = _turn(row["preferred_output"][-1])
        other = _turn(row["non_preferred_output"][-1])
        turns = [*before, answer, other]
    else:
        turns = [_turn(message) for message in row["messages"]]
        before, answer, other = turns[:-1], turns[-1], None
    asked = "\n".join([text for role, text in before if role != "system"])
    return Example(
        split, line, turns, asked, answer[1], other[1] if other else None, row.get("label")
    )


def _turn(message: dict[str, Any]) -> tuple[str, str]:
    text = message["content"] or ""
    calls = message.get("tool_calls")
    if calls:
        said = [f"{call['function']['name']} {call['function']['arguments']}" for call in calls]
        text = "\n".join([text, *said]) if text else "\n".join(said)
    return message["role"], text
