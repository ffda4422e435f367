"""OpenAI chat fine-tuning lines: {"messages": [...], "tools": [...]?, "parallel_tool_calls"?}."""

from typing import Any

from common.texts import Text
from training.formats.messages import NOT_TRAINED, REMEDIES, read_messages, read_tools
from training.formats.problems import Findings

NAME, KIND = "openai_chat", "chat"
LINE_KEYS = frozenset({"messages", "tools", "parallel_tool_calls"})


def matches(row: dict[str, Any]) -> bool:
    return "messages" in row


def convert(found: Findings, row: dict[str, Any]) -> dict[str, Any]:
    if not row.keys() <= LINE_KEYS:
        for key in row.keys() - LINE_KEYS:
            if key in NOT_TRAINED:
                found.add(f"{key}_not_supported", key, NOT_TRAINED[key], REMEDIES[key])
            else:
                found.ignore(key)
    messages = read_messages(found, row.get("messages"))
    line: dict[str, Any] = {"messages": messages}
    add_tools(found, row, line)
    answers = [message for message in messages if message.get("role") == "assistant"]
    if not found.problems and all(answer.get("weight", 1) == 0 for answer in answers):
        found.add(
            "nothing_to_learn",
            "messages",
            Text("Every answer has weight 0."),
            Text("Give at least one answer weight 1, or leave weights out."),
        )
    return line


def add_tools(
    found: Findings, row: dict[str, Any], line: dict[str, Any], path: str = "tools"
) -> None:
    """Tools and whether they may be called side by side, from `row` into `line`."""
    tools = read_tools(found, row.get("tools"), path)
    if tools:
        line["tools"] = tools
    parallel = row.get("parallel_tool_calls")
    if isinstance(parallel, bool):
        line["parallel_tool_calls"] = parallel
    elif parallel is not None:
        found.add(
            "parallel_tool_calls_invalid",
            path.removesuffix("tools") + "parallel_tool_calls",
            Text("This is neither true nor false."),
            Text("Write true or false, or leave it out."),
        )
