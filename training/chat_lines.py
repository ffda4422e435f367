"""One line of OpenAI chat jsonl: what a good one looks like, and what is wrong with a bad one.

{"messages": [{"role": "system", "content": "..."}, {"role": "user", "content": "..."},
              {"role": "assistant", "content": "..."}]}
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from common.texts import storable

MAX_LINE_BYTES = 4 * 2**20
MAX_MESSAGES = 1000
KEY_CHARACTERS = 60  # of an unknown key that are told
LINE_KEYS = frozenset({"messages"})
MESSAGE_KEYS = frozenset({"role", "content", "name", "weight"})
NOT_YET = {
    "tools": "Training with tool definitions is not supported yet.",
    "functions": "Training with function definitions is not supported yet.",
    "tool_calls": "Training on tool calls is not supported yet.",
    "function_call": "Training on function calls is not supported yet.",
}
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line, where in it, and what to do about it."""

    code: str
    field: str  # dotted path inside the line, "" for the line as a whole
    message: str
    remedy: str


@dataclass
class ChatLine:
    """One line, looked at. `messages` is of use only where there are no problems."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unknown_keys: list[str] = field(default_factory=list)  # ignored in training: worth telling

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The messages before the last answer, as a client would send them."""
        return [{"role": m["role"], "content": m["content"]} for m in self.messages[:-1]]

    @property
    def answer(self) -> str:
        """The last message: what the model should say."""
        return str(self.messages[-1]["content"])


def parse(raw: bytes) -> ChatLine:
    """Look at one line, all of it; never raises for what is in it."""
    if len(raw) > MAX_LINE_BYTES:
        return _off(
            "line_too_long",
            f"The line is longer than {MAX_LINE_BYTES // 2**20} MiB.",
            "Split the conversation into several lines.",
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return _off(
            "not_utf8",
            f"Byte {error.start + 1} of the line is not UTF-8.",
            "Save the file with UTF-8 encoding.",
        )
    if text.startswith("\ufeff"):
        return _off(
            "byte_order_mark",
            "The line starts with a byte order mark.",
            "Save the file as UTF-8 without a byte order mark.",
        )
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _off("not_json", f"This is not JSON: {error}", "Write one JSON object a line.")
    if not isinstance(row, dict):
        return _off(
            "not_an_object",
            f"The line holds {_kind(row)}, not a JSON object.",
            'Write {"messages": [...]}.',
        )
    return _check_row(row)


def _off(code: str, message: str, remedy: str, field_name: str = "") -> ChatLine:
    return ChatLine(problems=[Problem(code, field_name, message, remedy)])


def _check_row(row: dict[str, Any]) -> ChatLine:
    line = ChatLine()
    for key in row.keys() - LINE_KEYS:
        _unknown_key(line, key, key)
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        line.problems.append(
            Problem(
                "messages_missing",
                "messages",
                "There is no list of messages."
                if messages is None
                else "This is not a list of messages.",
                'Add "messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}].',
            )
        )
        return line
    if len(messages) > MAX_MESSAGES:
        line.problems.append(
            Problem(
                "too_many_messages",
                "messages",
                f"{len(messages)} messages are more than {MAX_MESSAGES}.",
                "Split the conversation into several lines.",
            )
        )
        return line
    for index, message in enumerate(messages):
        line.problems.extend(_check_message(line, index, message))
    if not line.problems:
        line.problems.extend(_check_order([message["role"] for message in messages]))
    if not line.problems and all(
        message.get("weight", 1) == 0 for message in messages if message["role"] == "assistant"
    ):
        line.problems.append(
            Problem(
                "nothing_to_learn",
                "messages",
                "Every answer has weight 0.",
                "Give at least one answer weight 1, or leave weights out.",
            )
        )
    line.messages = messages
    return line


def _unknown_key(line: ChatLine, key: str, path: str) -> None:
    if key in NOT_YET:
        line.problems.append(
            Problem(f"{key}_not_supported", path, NOT_YET[key], f"Remove “{key}” from the line.")
        )
    else:
        name = storable(key, limit=KEY_CHARACTERS)
        line.unknown_keys.append(name if path == key else f"messages[].{name}")


def _check_message(line: ChatLine, index: int, message: Any) -> Iterator[Problem]:
    path = f"messages.{index}"
    if not isinstance(message, dict):
        yield Problem(
            "message_not_an_object",
            path,
            f"This message is {_kind(message)}, not an object.",
            'Write {"role": "...", "content": "..."}.',
        )
        return
    for key in message.keys() - MESSAGE_KEYS:
        _unknown_key(line, key, f"{path}.{key}")
    role = message.get("role")
    if role not in ROLES:
        yield Problem(
            "role_missing" if role is None else "role_unknown",
            f"{path}.role",
            "The message has no role." if role is None else f"{_quoted(role)} is no role we know.",
            f"Use one of {', '.join(ROLES)}.",
        )
    yield from _check_content(f"{path}.content", message.get("content"))
    weight = message.get("weight")
    if weight is not None and (role != "assistant" or weight not in (0, 1)):
        yield Problem(
            "weight_invalid",
            f"{path}.weight",
            "A weight is 0 or 1, and only answers have one.",
            "Write 0 or 1 on an assistant message, or leave it out.",
        )


def _check_content(path: str, content: Any) -> Iterator[Problem]:
    if isinstance(content, list):
        yield Problem(
            "content_in_parts",
            path,
            "The content is a list of parts.",
            "Write the content as one string; images and audio cannot be trained on yet.",
        )
    elif content is None:
        yield Problem("content_missing", path, "There is no content.", "Add the text.")
    elif not isinstance(content, str):
        yield Problem(
            "content_not_text", path, f"The content is {_kind(content)}.", "Write it as a string."
        )
    elif not content.strip():
        yield Problem(
            "content_empty", path, "The content is empty.", "Add text, or remove the line."
        )
    elif "\0" in content:
        yield Problem(
            "content_has_nul", path, "The content holds a NUL character.", "Remove \\u0000 from it."
        )
    elif not _is_unicode(content):
        yield Problem(
            "content_not_unicode",
            path,
            "The content holds half of a surrogate pair.",
            "Write characters past U+FFFF as themselves, or as both \\u escapes.",
        )


def _check_order(roles: list[str]) -> Iterator[Problem]:
    """Optional system first, then user and assistant in turn, the last one assistant."""
    turns = roles[1:] if roles[0] == "system" else roles
    first = len(roles) - len(turns)
    for index, role in enumerate(turns):
        wanted = "user" if index % 2 == 0 else "assistant"
        if role == wanted:
            continue
        yield Problem(
            "role_out_of_order",
            f"messages.{first + index}.role",
            f"Here should be “{wanted}”, not “{role}”.",
            "Put at most one system message first, then user and assistant in turn.",
        )
        return
    if len(turns) < 2 or turns[-1] != "assistant":
        yield Problem(
            "answer_missing",
            "messages",
            "The conversation does not end with an answer.",
            "Add an assistant message at the end.",
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _quoted(value: object) -> str:
    text = str(value).encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    return f"“{text[:40]}…”" if len(text) > 40 else f"“{text}”"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")
