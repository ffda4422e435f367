"""Labelled answers: TRL's {"prompt", "completion", "label"}, or {"messages", "label"}."""

from typing import Any

from common.texts import Text
from training.formats.messages import read_messages
from training.formats.openai_chat import add_tools
from training.formats.problems import Findings, quoted
from training.formats.trl_preference import answer, prompt_messages

NAME, KIND = "kto", "label"
LINE_KEYS = frozenset(
    {"prompt", "completion", "messages", "label", "system", "tools", "parallel_tool_calls"}
)
WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def matches(row: dict[str, Any]) -> bool:
    if "label" not in row or not ("messages" in row or "completion" in row):
        return False
    value = row["label"]
    return value is None or isinstance(value, bool) or str(value).strip().lower() in WORDS


def convert(found: Findings, row: dict[str, Any]) -> dict[str, Any]:
    for key in row.keys() - LINE_KEYS:
        found.ignore(key)
    if "messages" in row:
        messages = read_messages(found, row["messages"])
    else:
        messages = prompt_messages(found, row.get("prompt"), row.get("system"))
        messages = messages + answer(found, row.get("completion"), "completion")
    line: dict[str, Any] = {"messages": messages}
    add_tools(found, row, line)
    line["label"] = _label(found, row.get("label"))
    return line


def _label(found: Findings, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    told = WORDS.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if told is None:
        found.add(
            "label_invalid",
            "label",
            Text("There is no label.")
            if value is None
            else Text("%(value)s is no label.", value=quoted(value)),
            Text("Write true for an answer to learn, false for one to unlearn."),
        )
    return bool(told)
