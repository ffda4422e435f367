"""Tool calls as Qwen3-Coder and Qwen3.5 onwards write them: tags throughout, values bare.

    <tool_call>
    <function=weather>
    <parameter=city>
    Berlin
    </parameter>
    </function>
    </tool_call>

Values of string parameters are passed on while they are written; others once they are whole,
since only the tool's schema and the value together tell its type.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from engines.protocol.marks import overlap
from engines.protocol.reading import Piece, parameters_of

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
MOST_NAME_LENGTH = 200


class CoderReader:
    """Implements reading.ToolReader. `tools` are the parameters' schemas by function."""

    def __init__(self, tools: Mapping[str, Any]) -> None:
        self._tools = tools
        self._held = ""
        self._place = "text"
        self._before = ""  # what is said instead if no call follows: white space and tags
        self._calls = 0
        self._schemas: dict[str, Any] = {}  # of the present call's parameters
        self._schema: Any = None  # of the present parameter
        self._parameters = 0  # of the present call, so far
        self._is_tagged = False  # the call began with OPEN

    def push(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        steps = {
            "text": self._text,
            "opened": self._opened,
            "name": self._name,
            "between": self._between,
            "stray": self._stray,
            "key": self._key,
            "string": self._string,
            "value": self._value,
            "closing": self._closing,
        }
        while steps[self._place](pieces):
            pass
        return pieces

    def end(self, *, was_cut: bool) -> list[Piece]:
        held, self._held = self._held, ""
        pieces: list[Piece] = []
        if self._place in ("text", "opened", "name"):
            rest = self._before + held
            _say(pieces, rest if rest.strip() or not self._calls else "")
        elif self._place == "string":
            self._argue(pieces, _escaped(held))
        elif self._place == "value" and held.strip():
            self._argue(pieces, _as_json(_inside(held), self._schema))
        elif self._place == "between" and not was_cut:
            self._argue(pieces, "}")
        return pieces

    def _text(self, pieces: list[Piece]) -> bool:
        found = [(at, tag) for tag in (OPEN, FUNCTION) if (at := self._held.find(tag)) >= 0]
        if found:
            certain, tag = min(found)
        else:
            waiting = max(overlap(self._held, tag) for tag in (OPEN, FUNCTION))
            certain, tag = len(self._held) - waiting, ""
        text = self._before + self._held[:certain]
        said = text.rstrip()
        _say(pieces, said)
        self._before = text[len(said) :] + tag
        self._held = self._held[certain + len(tag) :]
        if tag:
            self._place = "opened" if tag == OPEN else "name"
            self._is_tagged = tag == OPEN
        return bool(tag)

    def _opened(self, pieces: list[Piece]) -> bool:
        rest = self._held.lstrip()
        if rest.startswith(FUNCTION):
            self._before += self._held[: len(self._held) - len(rest)] + FUNCTION
            self._held, self._place = rest.removeprefix(FUNCTION), "name"
            return True
        return not FUNCTION.startswith(rest) and self._take_back(pieces)

    def _name(self, pieces: list[Piece]) -> bool:
        name, ended = _name_in(self._held)
        if ended is None:
            return False
        if not name or self._held[ended - 1] != ">":
            return self._take_back(pieces)
        self._held = self._held[ended:]
        self._schemas = parameters_of(self._tools, name)
        self._parameters, self._before = 0, ""
        self._calls += 1
        pieces.append(Piece("call", name, self._calls - 1))
        self._argue(pieces, "{")
        self._place = "between"
        return True

    def _between(self, pieces: list[Piece]) -> bool:
        """Before a parameter, or at the end of the function."""
        self._held = self._held.lstrip()
        for tag, place in ((PARAMETER, "key"), (FUNCTION_END, "closing"), (CLOSE, "text")):
            if self._held.startswith(tag):
                self._held, self._place = self._held.removeprefix(tag), place
                if place != "key":
                    self._argue(pieces, "}")
                return True
        if any(tag.startswith(self._held) for tag in (PARAMETER, FUNCTION_END, CLOSE)):
            return False
        _say(pieces, self._held[0])
        self._held, self._place = self._held[1:], "stray"
        return True

    def _stray(self, pieces: list[Piece]) -> bool:
        """Text where only tags belong: said, up to the next tag."""
        at = self._held.find("<")
        _say(pieces, self._held if at < 0 else self._held[:at])
        self._held = "" if at < 0 else self._held[at:]
        if at >= 0:
            self._place = "between"
        return at >= 0

    def _key(self, pieces: list[Piece]) -> bool:
        key, ended = _name_in(self._held)
        if ended is None:
            return False
        self._held = self._held[ended:]
        self._schema = self._schemas.get(key)
        comma = ", " if self._parameters else ""
        self._parameters += 1
        self._argue(pieces, comma + json.dumps(key, ensure_ascii=False) + ": ")
        self._place = "value"
        return True

    def _value(self, pieces: list[Piece]) -> bool:
        if _is_text(self._schema) and self._held:
            self._held = self._held.removeprefix("\n")
            self._argue(pieces, '"')
            self._place = "string"
            return True
        raw, ended, rest = self._held.partition(PARAMETER_END)
        if not ended:
            return False
        self._argue(pieces, _as_json(_inside(raw), self._schema))
        self._held, self._place = rest, "between"
        return True

    def _string(self, pieces: list[Piece]) -> bool:
        value, ended, rest = self._held.partition(PARAMETER_END)
        if ended:
            self._argue(pieces, _escaped(value.removesuffix("\n")) + '"')
            self._held, self._place = rest, "between"
            return True
        waiting = max(overlap(self._held, mark) for mark in (PARAMETER_END, "\n" + PARAMETER_END))
        certain = len(self._held) - waiting
        self._argue(pieces, _escaped(self._held[:certain]))
        self._held = self._held[certain:]
        return False

    def _closing(self, pieces: list[Piece]) -> bool:
        rest = self._held.lstrip()
        if rest.startswith(CLOSE):
            rest = rest.removeprefix(CLOSE)
        elif self._is_tagged and CLOSE.startswith(rest):
            return False
        self._held, self._place = rest, "text"
        return True

    def _take_back(self, pieces: list[Piece]) -> bool:
        """It was no call: what looked like the beginning of one is said."""
        _say(pieces, self._before)
        self._before, self._place = "", "text"
        return True

    def _argue(self, pieces: list[Piece], text: str) -> None:
        if text:
            pieces.append(Piece("arguments", text, self._calls - 1))


def _name_in(text: str) -> tuple[str, int | None]:
    """A name before > (or what ends it too early), and where it ended; None: not yet."""
    for at, character in enumerate(text[:MOST_NAME_LENGTH]):
        if character in ">\n<":
            return text[:at].strip(), at + 1
    if len(text) < MOST_NAME_LENGTH:
        return "", None
    return text[:MOST_NAME_LENGTH], MOST_NAME_LENGTH


def _inside(raw: str) -> str:
    return raw.removeprefix("\n").removesuffix("\n")


def _is_text(schema: Any) -> bool:
    """Whether a value is to be taken as it stands."""
    if not isinstance(schema, dict):
        return True
    if "type" in schema:
        return bool(schema["type"] == "string")
    if "enum" in schema:
        return all(isinstance(each, str) for each in schema["enum"])
    return not any(word in schema for word in ("anyOf", "oneOf", "allOf", "$ref", "const"))


def _as_json(raw: str, schema: Any) -> str:
    """A bare value as JSON; a text where it is nothing else."""
    if not _is_text(schema):
        word = raw.strip()
        plain = {"True": "true", "False": "false", "None": "null"}.get(word, word)
        try:
            return json.dumps(json.loads(plain, parse_constant=_refuse), ensure_ascii=False)
        except ValueError:
            pass
    return json.dumps(raw, ensure_ascii=False)


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and infinities are not JSON


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _say(pieces: list[Piece], text: str) -> None:
    if text:
        pieces.append(Piece("content", text))
