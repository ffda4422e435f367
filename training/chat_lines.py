"""One line of OpenAI chat jsonl: what a good one looks like, and what is wrong with a bad one.

{"messages": [{"role": "system", "content": "..."}, {"role": "user", "content": "..."},
              {"role": "assistant", "content": "..."}], "tools": [...]}
"""

import io
from dataclasses import dataclass, field
from typing import Any

from training import formats
from training.formats import containers, openai_chat
from training.formats.problems import Problem


@dataclass
class ChatLine:
    """One line, looked at. `messages` is of use only where there are no problems."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unknown_keys: list[str] = field(default_factory=list)  # ignored in training: worth telling

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages before the last answer, as a client would send them."""
        return [without_weight(message) for message in self.messages[:-1]]

    @property
    def answer(self) -> str:
        """The last message: what the model should say; "" where it calls tools instead."""
        return str(self.messages[-1]["content"] or "")


def parse(raw: bytes) -> ChatLine:
    """Look at one line, all of it; never raises for what is in it."""
    record = next(containers.read_lines(io.BytesIO(raw)), None)
    if record is None:
        problem = Problem("not_json", "", "The line is blank.", "Write one JSON object a line.")
        return ChatLine(problems=[problem])
    if record.problem is not None:
        return ChatLine(problems=[record.problem])
    row, found = formats.convert(openai_chat.NAME, record.row)
    return ChatLine(
        row.get("messages", []), row.get("tools", []), found.problems, found.unknown_keys
    )


def without_weight(message: dict[str, Any]) -> dict[str, Any]:
    """A message as chat templates and clients know it."""
    return {key: value for key, value in message.items() if key != "weight"}
