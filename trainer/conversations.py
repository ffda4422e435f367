"""Canonical jsonl, read line by line; what cannot be trained on is refused by line number.

chat        {"messages": [...], "tools": [...]?}; an assistant's message may carry "weight": 0
preference  {"input": {"messages": [...], "tools": [...]?}, "preferred_output": [assistant's],
            "non_preferred_output": [assistant's]}
label       {"messages": [..., assistant's], "tools": [...]?, "label": true or false}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import FailureReason, TrainingFailure

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


@dataclass(frozen=True)
class Conversation:
    """One line. `trained` holds the indices of the messages whose tokens count in the loss."""

    line: int  # from 1
    messages: tuple[dict[str, Any], ...]
    trained: tuple[int, ...]
    tools: tuple[dict[str, Any], ...] | None


def bad_line(path: Path, line: int, problem: str, *, remedy: str) -> TrainingFailure:
    return TrainingFailure(
        FailureReason.BAD_DATA, f"{path.name} line {line}: {problem}", remedy=remedy
    )


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Yield every line; raises TrainingFailure(bad_data) at the first that is off."""
    for number, row in _read_rows(path):
        yield _conversation(path, number, row)


def read_pairs(path: Path) -> Iterator[tuple[Conversation, Conversation]]:
    """Each line's preferred answer and the other one, each after the same messages."""
    for number, row in _read_rows(path):
        asked = row.get("input")
        if not isinstance(asked, dict):
            raise bad_line(
                path, number, "has no input", remedy='write {"input": {"messages": [...]}, ...}'
            )
        preferred, other = (
            _answered(path, number, asked, row.get(name), name)
            for name in ("preferred_output", "non_preferred_output")
        )
        yield preferred, other


def read_labelled(path: Path) -> Iterator[tuple[Conversation, bool]]:
    """Each line's conversation, whose last message alone counts, and whether it is desirable."""
    for number, row in _read_rows(path):
        if not isinstance(row.get("label"), bool):
            raise bad_line(path, number, "has no label", remedy='add "label": true or false')
        conversation = _conversation(path, number, row)
        last = len(conversation.messages) - 1
        if conversation.messages[last]["role"] != "assistant":
            raise bad_line(
                path, number, "does not end with an answer", remedy="end with the assistant"
            )
        yield dataclasses.replace(conversation, trained=(last,)), row["label"]


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise TrainingFailure(
            FailureReason.BAD_DATA, f"{path} cannot be read: {error}", remedy="check the path"
        ) from error
    with file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw)
            except ValueError as error:
                raise bad_line(
                    path, number, f"is not JSON: {error}", remedy="one object a line"
                ) from error
            yield number, row if isinstance(row, dict) else {}


def _answered(
    path: Path, number: int, asked: dict[str, Any], output: Any, name: str
) -> Conversation:
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_line(
            path, number, "has no input messages", remedy='write {"input": {"messages": [...]}}'
        )
    is_one_answer = (
        isinstance(output, list)
        and len(output) == 1
        and isinstance(output[0], dict)
        and output[0].get("role") == "assistant"
    )
    if not is_one_answer:
        raise bad_line(
            path,
            number,
            f"{name} is not one assistant message",
            remedy=f'write "{name}": [{{"role": "assistant", "content": ...}}]',
        )
    whole = asked | {"messages": [*messages, *output]}
    return dataclasses.replace(_conversation(path, number, whole), trained=(len(messages),))


def _conversation(path: Path, number: int, row: dict[str, Any]) -> Conversation:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_line(
            path, number, "has no messages", remedy='write {"messages": [{"role": ...}]}'
        )
    checked = tuple(_check_message(path, number, index, m) for index, m in enumerate(messages))
    trained = tuple(
        index
        for index, message in enumerate(checked)
        if message["role"] == "assistant" and messages[index].get("weight") != 0
    )
    if not trained:
        raise bad_line(
            path,
            number,
            "has no assistant message to learn from",
            remedy="add an answer, or remove the line",
        )
    tools = row.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise bad_line(path, number, "has tools that are no list", remedy="give a list of tools")
    return Conversation(number, checked, trained, tuple(tools) if tools else None)


def _check_message(path: Path, number: int, index: int, message: Any) -> dict[str, Any]:
    """The message as a chat template takes it: text parts joined, `weight` left out."""
    where = f"message {index + 1}"
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise bad_line(
            path, number, f"{where} has no known role", remedy=f"use one of {sorted(ROLES)}"
        )
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise bad_line(
                path, number, f"{where} holds more than text", remedy="leave images and audio out"
            )
        content = "".join(str(part.get("text", "")) for part in content)
    if content is None and message["role"] == "assistant" and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise bad_line(path, number, f"{where} has no text content", remedy="give it a text")
    try:
        return as_rendered(message | {"content": content})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad_line(
            path,
            number,
            f"{where} has a tool call that cannot be read: {error!r}",
            remedy='write {"function": {"name": "...", "arguments": "{...}"}}',
        ) from error


def as_rendered(message: dict[str, Any]) -> dict[str, Any]:
    """A message as chat templates get it, here, where tokens are counted and where models are
    served: without what templates do not know, and with the arguments of calls as objects. Given
    a text a template would write it as it is, and an object in its own way of writing JSON."""
    kept = {key: value for key, value in message.items() if key != "weight"}
    kept["content"] = kept.get("content") or ""
    if kept.get("tool_calls"):
        kept["tool_calls"] = [_with_object(call) for call in kept["tool_calls"]]
    return kept


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return call | {"function": function | {"arguments": arguments}}
