"""ShareGPT: {"conversations": [{"from": "human", "value": "..."}, ...], "system"?, "tools"?}.

Tool turns are LLaMA-Factory's: `function_call` holds {"name", "arguments"} as JSON, `observation`
what the tool said.
"""

import json
from typing import Any

from common.texts import Text
from training.formats.messages import read_messages
from training.formats.openai_chat import add_tools
from training.formats.problems import Findings, quoted

NAME, KIND = "sharegpt", "chat"
LINE_KEYS = frozenset({"conversations", "system", "tools", "parallel_tool_calls"})
ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}


def matches(row: dict[str, Any]) -> bool:
    return "conversations" in row


def convert(found: Findings, row: dict[str, Any]) -> dict[str, Any]:
    for key in row.keys() - LINE_KEYS:
        found.ignore(key)
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        found.add(
            "conversations_missing",
            "conversations",
            Text("There is no list of turns."),
            Text('Write [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}].'),
        )
        return {}
    messages, shift = [], 0
    if row.get("system"):
        messages.append({"role": "system", "content": row["system"]})
        shift = 1
    for index, turn in enumerate(turns):
        messages.append(_message(found, turn, index))
    if found.problems:
        return {}
    inner = Findings()
    line: dict[str, Any] = {"messages": read_messages(inner, messages)}
    for problem in inner.problems:
        found.add(problem.code, _place(problem.field, shift), problem.message, problem.remedy)
    tools = row.get("tools")
    if isinstance(tools, str):
        tools = _tools(found, tools)
    add_tools(found, row | {"tools": tools}, line)
    return line


def _message(found: Findings, turn: Any, index: int) -> dict[str, Any]:
    path = f"conversations.{index}"
    if not isinstance(turn, dict):
        found.add(
            "turn_not_an_object",
            path,
            Text("This turn is no object."),
            Text('Write {"from", "value"}.'),
        )
        return {}
    speaker = turn.get("from", turn.get("role"))
    speaker = speaker.lower() if isinstance(speaker, str) else speaker
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        found.add(
            "role_missing" if speaker is None else "role_unknown",
            f"{path}.from",
            Text("Nobody says this.")
            if speaker is None
            else Text("%(speaker)s is nobody we know.", speaker=quoted(speaker)),
            Text("Use one of %(names)s.", names=list(ROLES)),
        )
        return {}
    text = turn.get("value", turn.get("content"))
    if speaker == "function_call":
        return _call(found, text, index)
    message = {"role": role, "content": text}
    if role == "tool":
        message["tool_call_id"] = f"call_{index - 1}"
    if role == "assistant" and turn.get("weight") is not None:
        message["weight"] = turn["weight"]
    return message


def _call(found: Findings, text: Any, index: int) -> dict[str, Any]:
    try:
        call = json.loads(text)
        function = {"name": call["name"], "arguments": call.get("arguments", {})}
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
        found.add(
            "function_call_invalid",
            f"conversations.{index}.value",
            Text("This is no call of a function."),
            Text('Write {"name": "...", "arguments": {...}} as a string.'),
        )
        return {}
    if not isinstance(function["arguments"], str):
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    called = {"id": f"call_{index}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [called]}


def _tools(found: Findings, text: str) -> Any:
    """A string of JSON: OpenAI's tools, or bare functions."""
    if not text.strip():
        return None
    try:
        tools = json.loads(text)
    except (ValueError, RecursionError):
        found.add(
            "tools_invalid",
            "tools",
            Text("The tools are no JSON."),
            Text("Write a list of functions."),
        )
        return None
    if isinstance(tools, list):
        tools = [
            {"type": "function", "function": one}
            if isinstance(one, dict) and "function" not in one
            else one
            for one in tools
        ]
    return tools or None


def _place(path: str, shift: int) -> str:
    """The turn that a message's path speaks of."""
    parts = path.split(".")
    if len(parts) < 2:
        return "conversations"
    index = int(parts[1]) - shift
    return f"conversations.{index}" if index >= 0 else "system"
