"""Pairs: {"prompt", "completion"}, each a text or a list of messages, and "system"?"""

from typing import Any

from training.formats.openai_chat import add_tools
from training.formats.problems import Findings
from training.formats.trl_preference import answer, prompt_messages

NAME, KIND = "prompt_completion", "chat"
LINE_KEYS = frozenset({"prompt", "completion", "system", "tools", "parallel_tool_calls"})


def matches(row: dict[str, Any]) -> bool:
    return "prompt" in row and "completion" in row


def convert(found: Findings, row: dict[str, Any]) -> dict[str, Any]:
    for key in row.keys() - LINE_KEYS:
        found.ignore(key)
    messages = prompt_messages(found, row.get("prompt"), row.get("system"))
    line: dict[str, Any] = {
        "messages": messages + answer(found, row.get("completion"), "completion")
    }
    add_tools(found, row, line)
    return line
