"""A request of the responses API, read into one of chat completions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from engines.protocol import fields
from engines.protocol.errors import invalid, unsupported
from gateway import errors

Item = dict[str, Any]

# Passed to the engine under the same name, which checks them.
SAME = (
    "model", "stream", "temperature", "top_p", "parallel_tool_calls", "user", "service_tier",
    "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "top_k", "min_p",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "seed", "stop",
    "stop_token_ids", "include_stop_str_in_output", "min_tokens", "ignore_eos", "priority",
    "chat_template_kwargs", "structured_outputs",
)  # fmt: skip
READ_HERE = (
    "input", "instructions", "store", "previous_response_id", "metadata", "tools", "tool_choice",
    "max_output_tokens", "text", "reasoning", "stream_options", "truncation",
)  # fmt: skip
KNOWN = frozenset((*SAME, *READ_HERE))
REMEDIES = {
    "background": "Leave it out and wait for the answer, or stream it.",
    "conversation": "Use 'previous_response_id'.",
    "prompt": "Send the text itself as 'instructions' and 'input'.",
    "include": "Leave it out.",
    "top_logprobs": "Use /v1/chat/completions for log probabilities.",
    "max_tool_calls": "It bounds built-in tools, of which there are none: leave it out.",
}
# Where an engine names a field of chat completions, the client is told its own.
OWN_NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
}
ROLES = ("system", "developer", "user", "assistant")
MOST_METADATA = 16


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is wanted of a response. `items` are its own input, `asked` what it repeats of the
    request in its body."""

    model: str
    stream: bool
    store: bool
    previous_id: str | None
    items: Sequence[Item]
    asked: Mapping[str, Any]
    body: Mapping[str, Any]

    def chat_body(self, earlier: Sequence[Item]) -> bytes:
        """The request for chat completions, after the `earlier` items of the conversation."""
        messages: list[Item] = []
        if self.asked["instructions"] is not None:
            messages.append({"role": "system", "content": self.asked["instructions"]})
        messages += _messages([*earlier, *self.items])
        return orjson.dumps({**self.body, "messages": messages})


def read_ask(raw: bytes) -> Ask:
    """Raises ApiError (400) that names the field at fault."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise errors.invalid_body(f"The body is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise errors.invalid_body("The body must be a JSON object.", code="invalid_type")
    _check_known(body)
    model = fields.text(body, "model")
    if model is None:
        raise invalid("model", "'model' is required.", code="missing_required_parameter")
    stream = fields.boolean(body, "stream")
    store = body.get("store") is None or fields.boolean(body, "store")
    limit = fields.integer(body, "max_output_tokens", low=1, high=1 << 31)
    form = _format(body)
    tools = _tools(body)
    reasoning = _reasoning(body)
    chat = {name: body[name] for name in SAME if body.get(name) is not None}
    extra: dict[str, Any] = {
        "max_completion_tokens": limit,
        "response_format": _chat_format(form),
        "tools": [_chat_tool(tool) for tool in tools] or None,
        "tool_choice": _chat_choice(body) if tools else None,
        "reasoning_effort": reasoning.get("effort"),
        "stream_options": {"include_usage": True} if stream else None,
    }
    chat |= {name: value for name, value in extra.items() if value is not None}
    asked: dict[str, Any] = {
        "instructions": fields.text(body, "instructions"),
        "max_output_tokens": limit,
        "metadata": _metadata(body),
        "model": model,
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": fields.text(body, "previous_response_id"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "store": store,
        "temperature": body.get("temperature"),
        "text": {"format": form},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": tools,
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "user": body.get("user"),
    }
    return Ask(
        model=model,
        stream=stream,
        store=store,
        previous_id=asked["previous_response_id"],
        items=_items(body.get("input")),
        asked=asked,
        body=chat,
    )


def own_param(param: str) -> str:
    """The name here of a field of chat completions that an engine refused."""
    for name, own in OWN_NAMES.items():
        if param.startswith(name):
            return own
    return param


def _check_known(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if name not in KNOWN and value not in (None, False, [], {}, "", 0):
            remedy = REMEDIES.get(name, "Leave it out.")
            raise unsupported(name, f"'{name}' is not supported. {remedy}")
    if body.get("truncation") not in (None, "disabled"):
        message = "Only 'disabled' is supported: send less input, or a shorter conversation."
        raise unsupported("truncation", message)


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    values = fields.mapping(body, "metadata")
    for name, value in values.items():
        if not isinstance(value, str) or len(value) > 512 or len(name) > 64:
            message = "'metadata' takes texts: names of up to 64, values of up to 512 characters."
            raise invalid("metadata", message)
    if len(values) > MOST_METADATA:
        raise invalid("metadata", f"'metadata' takes at most {MOST_METADATA} entries.")
    return values


def _reasoning(body: Mapping[str, Any]) -> dict[str, Any]:
    values = fields.mapping(body, "reasoning")
    for name, value in values.items():
        if name != "effort" and value is not None:
            raise unsupported(f"reasoning.{name}", f"'reasoning.{name}' is not supported.")
    return values


def _format(body: Mapping[str, Any]) -> dict[str, Any]:
    text = fields.mapping(body, "text")
    for name, value in text.items():
        if name != "format" and value not in (None, "medium"):
            raise unsupported(f"text.{name}", f"'text.{name}' is not supported. Leave it out.")
    form = fields.mapping(text, "format", prefix="text.")
    return form or {"type": "text"}


def _chat_format(form: Mapping[str, Any]) -> dict[str, Any] | None:
    if form.get("type") == "text":
        return None
    if form.get("type") != "json_schema":
        return dict(form)
    schema = {name: value for name, value in form.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _tools(body: Mapping[str, Any]) -> list[Item]:
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        raise invalid("tools", "'tools' must be a list.", code="invalid_type")
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise invalid(where, f"'{where}' must be an object.", code="invalid_type")
        if tool.get("type") != "function":
            message = "Only tools of type function are supported: call others yourself."
            raise unsupported(f"{where}.type", message)
        if not isinstance(tool.get("name"), str):
            raise invalid(f"{where}.name", f"'{where}.name' must be a string.")
    return tools


def _chat_tool(tool: Item) -> Item:
    wanted = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in wanted if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _chat_choice(body: Mapping[str, Any]) -> Any:
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") != "function":
        message = "Use 'none', 'auto', 'required', or name one function."
        raise unsupported("tool_choice", message)
    return {"type": "function", "function": {"name": choice.get("name")}}


def _items(value: Any) -> list[Item]:
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if value is None:
        raise invalid("input", "'input' is required.", code="missing_required_parameter")
    if not isinstance(value, list) or not value:
        raise invalid("input", "'input' must be a text or a list of items.", code="invalid_type")
    for index, item in enumerate(value):
        _check_item(item, f"input[{index}]")
    return value


def _check_item(item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise invalid(where, f"'{where}' must be an object.", code="invalid_type")
    match item.get("type", "message"):
        case "message":
            if item.get("role") not in ROLES:
                raise invalid(f"{where}.role", f"'{where}.role' must be one of {list(ROLES)}.")
            _text(item.get("content"), f"{where}.content")
        case "function_call":
            _check_texts(item, ("call_id", "name", "arguments"), where)
        case "function_call_output":
            _check_texts(item, ("call_id",), where)
            _text(item.get("output"), f"{where}.output")
        case "reasoning":
            return
        case kind:
            raise unsupported(
                f"{where}.type",
                f"Input of type {kind!r} is not supported. Send messages, function_call and "
                "function_call_output, or use 'previous_response_id'.",
            )


def _check_texts(item: Item, names: Sequence[str], where: str) -> None:
    for name in names:
        if not isinstance(item.get(name), str):
            message = f"'{where}.{name}' must be a string."
            raise invalid(f"{where}.{name}", message, code="invalid_type")


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        message = f"'{where}' must be a string or a list of parts."
        raise invalid(where, message, code="invalid_type")
    return "\n".join(_part(part, f"{where}[{index}]") for index, part in enumerate(value))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise invalid(where, f"'{where}' must be an object.", code="invalid_type")
    kind = part.get("type")
    if kind not in ("input_text", "output_text", "text"):
        message = f"Content of type {kind!r} is not supported. Send input_text."
        raise unsupported(f"{where}.type", message)
    text = part.get("text")
    if not isinstance(text, str):
        raise invalid(f"{where}.text", f"'{where}.text' must be a string.", code="invalid_type")
    return text


def _messages(items: Sequence[Item]) -> list[Item]:
    """Calls that follow one another, or what was said before them, are one message."""
    messages: list[Item] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item["role"], "content": _text(item["content"], "input")})
        elif kind == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            content = _text(item["output"], "input")
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
    return messages
