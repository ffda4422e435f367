"""Reads a conversation into what chat templates want."""

import json
from collections.abc import Mapping
from typing import Any

from engines.protocol.errors import ApiError, invalid, unsupported

ROLES = ("system", "developer", "user", "assistant", "tool")


def read_messages(value: Any) -> list[dict[str, Any]]:
    """Messages with plain text, earlier calls with their arguments parsed. Raises ApiError."""
    if value is None:
        raise invalid("messages", "'messages' is required.", code="missing_required_parameter")
    if not isinstance(value, list) or not value:
        raise invalid("messages", "'messages' must be a list of at least one message.")
    return [_message(each, f"messages[{index}]") for index, each in enumerate(value)]


def _message(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(param, f"'{param}' must be an object.", code="invalid_type")
    role = value.get("role")
    if role == "function" or value.get("function_call"):
        raise unsupported(param, "function_call has been replaced: use tools and tool_calls.")
    if role not in ROLES:
        raise invalid(f"{param}.role", f"'{param}.role' must be one of {list(ROLES)}.")
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    content = value.get("content")
    if role == "assistant":
        _add_assistants_own(message, value, param)
    if content is None and (message.keys() & {"tool_calls", "reasoning_content"}):
        content = ""
    message["content"] = _content(content, f"{param}.content")
    for name in ("tool_call_id", "name"):
        if isinstance(value.get(name), str):
            message[name] = value[name]
    return message


def _add_assistants_own(message: dict[str, Any], value: Mapping[str, Any], param: str) -> None:
    calls = value.get("tool_calls")
    if calls:
        where = f"{param}.tool_calls"
        if not isinstance(calls, list):
            raise invalid(where, f"'{where}' must be a list.", code="invalid_type")
        message["tool_calls"] = [_call(each, f"{where}[{at}]") for at, each in enumerate(calls)]
    thought = value.get("reasoning_content") or value.get("reasoning")
    if isinstance(thought, str) and thought:
        message["reasoning_content"] = thought


def _call(value: Any, param: str) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise invalid(param, f"'{param}' must have a function with a name.", code="invalid_type")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise _no_arguments(param, f"is not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise _no_arguments(param, "is not a JSON object")
    call: dict[str, Any] = {"type": "function"}
    if isinstance(value.get("id"), str):
        call["id"] = value["id"]
    return call | {"function": {"name": function["name"], "arguments": arguments}}


def _no_arguments(param: str, problem: str) -> ApiError:
    where = f"{param}.function.arguments"
    return invalid(where, f"'{where}' {problem}.")


def _content(value: Any, param: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(param, f"'{param}' must be a string or a list of parts.", code="invalid_type")
    texts: list[str] = []
    for index, part in enumerate(value):
        where = f"{param}[{index}]"
        if not isinstance(part, dict):
            raise invalid(where, f"'{where}' must be an object.", code="invalid_type")
        if part.get("type") != "text":
            kind = part.get("type")
            raise unsupported(f"{where}.type", f"Content of type {kind!r} is not supported.")
        if not isinstance(part.get("text"), str):
            raise invalid(f"{where}.text", f"'{where}.text' must be a string.", code="invalid_type")
        texts.append(part["text"])
    return "\n".join(texts)
