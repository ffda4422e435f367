"""Lists of messages, as OpenAI's API writes them: roles, texts, tools and tool calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from common.texts import Text
from training.formats.problems import Findings, Problem, check_text, kind_of, quoted

MAX_MESSAGES = 1000
MAX_TOOLS = 128
ROLES = ("system", "developer", "user", "assistant", "tool")
MESSAGE_KEYS = frozenset({"role", "content", "name", "weight"})
ASSISTANT_KEYS = MESSAGE_KEYS | {"tool_calls"}
TOOL_KEYS = MESSAGE_KEYS | {"tool_call_id"}
NOT_TRAINED = {
    "functions": Text("Functions are the old form of tools."),
    "function_call": Text("A function call is the old form of a tool call."),
    "audio": Text("Audio cannot be trained on."),
    "refusal": Text("Refusals are not a field of their own here."),
}
REMEDIES = {
    "functions": Text("Write them as “tools”."),
    "function_call": Text("Write it as “tool_calls”."),
    "audio": Text("Leave the message out, or write what was said as content."),
    "refusal": Text("Write the refusal as the content of the answer."),
}


def read_messages(
    found: Findings, value: Any, path: str = "messages", *, ends: str = "assistant"
) -> list[dict[str, Any]]:
    """The messages in canonical form; of use only if `found` gathered no problems.

    Text parts are joined, `developer` becomes `system`, unknown keys are left out and noted. `ends`
    says who speaks last: "assistant" for examples, "user" for what is still to be answered (after
    tools have answered, too).
    """
    if not isinstance(value, list) or not value:
        found.add(
            "messages_missing",
            path,
            Text("There is no list of messages.")
            if value is None
            else Text("This is not a list of messages."),
            Text(
                'Add "messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}].'
            ),
        )
        return []
    if len(value) > MAX_MESSAGES:
        found.add(
            "too_many_messages",
            path,
            Text(
                "%(count)s messages are more than %(most)s.",
                count=len(value),
                most=MAX_MESSAGES,
            ),
            Text("Split the conversation into several lines."),
        )
        return []
    before = len(found.problems)
    messages = [_message(found, f"{path}.{index}", one) for index, one in enumerate(value)]
    if len(found.problems) == before:
        found.problems.extend(_check_order(messages, path, ends))
    return messages


def read_tools(found: Findings, value: Any, path: str = "tools") -> list[dict[str, Any]]:
    """Function tools as they came; an empty list for none."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        found.add(
            "tools_invalid",
            path,
            Text("The tools are %(what)s.", what=kind_of(value))
            if not isinstance(value, list)
            else Text(
                "%(count)s tools are more than %(most)s.",
                count=len(value),
                most=MAX_TOOLS,
            ),
            Text('Write [{"type": "function", "function": {"name": "...", "parameters": {...}}}].'),
        )
        return []
    for index, tool in enumerate(value):
        tool = tool if isinstance(tool, dict) else {}
        function = tool.get("function")
        function = function if isinstance(function, dict) else {}
        name = function.get("name")
        if not isinstance(name, str) or not name or tool.get("type", "function") != "function":
            found.add(
                "tool_invalid",
                f"{path}.{index}",
                Text("This tool is no function with a name."),
                Text(
                    'Write {"type": "function", "function": {"name": "...", "parameters": {...}}}.'
                ),
            )
        elif not isinstance(function.get("parameters", {}), dict):
            found.add(
                "tool_invalid",
                f"{path}.{index}.function.parameters",
                Text("The parameters are no JSON schema."),
                Text('Write {"type": "object", "properties": {...}}.'),
            )
    return value


def _message(found: Findings, path: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        found.add(
            "message_not_an_object",
            path,
            Text("This message is %(what)s, not an object.", what=kind_of(message)),
            Text('Write {"role": "...", "content": "..."}.'),
        )
        return {}
    role = message.get("role")
    if role not in ROLES:
        found.add(
            "role_missing" if role is None else "role_unknown",
            f"{path}.role",
            Text("The message has no role.")
            if role is None
            else Text("%(role)s is no role we know.", role=quoted(role)),
            Text("Use one of %(names)s.", names=list(ROLES)),
        )
    known = ASSISTANT_KEYS if role == "assistant" else TOOL_KEYS if role == "tool" else MESSAGE_KEYS
    if not message.keys() <= known:
        _unknown(found, path, message, known)
    content = _content(found, path, message)
    kept = {"role": "system" if role == "developer" else role, "content": content}
    if len(message) > 2 or "content" not in message:
        _extras(found, path, message, kept)
    if role == "tool" and "tool_call_id" not in kept:
        found.add(
            "tool_call_id_missing",
            f"{path}.tool_call_id",
            Text("The tool's answer names no call."),
            Text("Add the id of the call that it answers."),
        )
    return kept


def _unknown(found: Findings, path: str, message: dict[str, Any], known: frozenset[str]) -> None:
    for key in message.keys() - known:
        if message[key] is None:
            continue
        if key in NOT_TRAINED:
            found.add(f"{key}_not_supported", f"{path}.{key}", NOT_TRAINED[key], REMEDIES[key])
        elif key in ("tool_calls", "tool_call_id"):
            found.add(
                f"{key}_misplaced",
                f"{path}.{key}",
                Text("Only answers call tools, and only tools answer calls."),
                Text("Remove “%(key)s” from this message.", key=key),
            )
        else:
            found.ignore(key, "messages[]")


def _content(found: Findings, path: str, message: dict[str, Any]) -> Any:
    content = message.get("content")
    if isinstance(content, list):
        parts = [one.get("text") for one in content if _is_text_part(one)]
        if not content or len(parts) < len(content):
            found.add(
                "content_in_parts",
                f"{path}.content",
                Text("The content is a list with parts that are not text."),
                Text("Write the content as one string; images and audio cannot be trained on."),
            )
            return ""
        content = "".join(parts)
    if not content and message.get("role") == "assistant" and message.get("tool_calls"):
        return None
    if message.get("role") == "tool" and content == "":
        return ""  # a tool may have nothing to say
    found.problems.extend(check_text(f"{path}.content", content))
    return content


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _extras(found: Findings, path: str, message: dict[str, Any], kept: dict[str, Any]) -> None:
    name = message.get("name")
    if name is not None:
        if isinstance(name, str) and not any(check_text("", name)):
            kept["name"] = name
        else:
            found.add(
                "name_invalid", f"{path}.name", Text("The name is no text."), Text("Write a text.")
            )
    weight = message.get("weight")
    if weight is not None:
        if message.get("role") != "assistant" or weight not in (0, 1):
            found.add(
                "weight_invalid",
                f"{path}.weight",
                Text("A weight is 0 or 1, and only answers have one."),
                Text("Write 0 or 1 on an assistant message, or leave it out."),
            )
        else:
            kept["weight"] = int(weight)
    if message.get("tool_calls") is not None and message.get("role") == "assistant":
        kept["tool_calls"] = message["tool_calls"]
        found.problems.extend(_check_calls(f"{path}.tool_calls", message["tool_calls"]))
    if isinstance(message.get("tool_call_id"), str) and message.get("role") == "tool":
        kept["tool_call_id"] = message["tool_call_id"]


def _check_calls(path: str, calls: Any) -> Iterator[Problem]:
    remedy = Text(
        'Write [{"id": "...", "type": "function", "function": {"name": "...", "arguments": "{}"}}].'
    )
    if not isinstance(calls, list) or not calls:
        yield Problem(
            "tool_calls_invalid",
            path,
            Text("The calls are %(what)s without a call.", what=kind_of(calls)),
            remedy,
        )
        return
    for index, call in enumerate(calls):
        at = f"{path}.{index}"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            yield Problem("tool_call_invalid", at, Text("This call names no function."), remedy)
            continue
        if not isinstance(call.get("id"), str) or not call["id"]:
            yield Problem("tool_call_id_missing", f"{at}.id", Text("The call has no id."), remedy)
        if not _is_arguments(function.get("arguments")):
            yield Problem(
                "tool_call_arguments_invalid",
                f"{at}.function.arguments",
                Text("The arguments are no JSON object."),
                Text('Write a string of JSON such as "{\\"order\\": 12}".'),
            )


def _is_arguments(value: Any) -> bool:
    if isinstance(value, dict):
        return True
    try:
        return isinstance(json.loads(value), dict)
    except (TypeError, ValueError, RecursionError):
        return False


def _check_order(messages: Sequence[dict[str, Any]], path: str, ends: str) -> Iterator[Problem]:
    """One system message at most, first; then users and answers in turn; after calls, their tools."""
    wanted = ("user",)
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        role = message["role"]
        if index == 0 and role == "system":
            continue
        if role not in wanted:
            yield Problem(
                "role_out_of_order",
                f"{path}.{index}.role",
                Text(
                    "Here should be “%(wanted)s”, not “%(role)s”.",
                    wanted="” or “".join(wanted),
                    role=role,
                ),
                Text(
                    "Put at most one system message first, then user and assistant in turn; "
                    "after tool calls, an answer of each tool."
                ),
            )
            return
        if role == "tool":
            if message["tool_call_id"] not in open_calls:
                yield Problem(
                    "tool_call_unknown",
                    f"{path}.{index}.tool_call_id",
                    Text("No open call has the id %(id)s.", id=quoted(message["tool_call_id"])),
                    Text("Give each tool message the id of a call in the answer before it, once."),
                )
                return
            open_calls.discard(message["tool_call_id"])
            wanted = ("tool",) if open_calls else ("assistant",)
        elif role == "assistant":
            open_calls = {call["id"] for call in message.get("tool_calls") or ()}
            wanted = ("tool",) if open_calls else ("user",)
        else:
            wanted = ("assistant",)
    last = messages[-1]["role"]
    if ends == "assistant" and (last != "assistant" or len(messages) < 2):
        yield Problem(
            "answer_missing",
            path,
            Text("The conversation does not end with an answer."),
            Text("Add an assistant message at the end."),
        )
    elif ends == "user" and last not in ("user", "tool"):
        yield Problem(
            "question_missing",
            path,
            Text("What is to be answered does not end with a question."),
            Text("End the input with a user message, or with what a tool said."),
        )
