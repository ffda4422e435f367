"""Tool calls as Qwen2.5 and Qwen3 write them: one JSON object between tags.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Berlin"}}
    </tool_call>

In the usual order, arguments are passed on while they are written. A call whose arguments turn
out to be no JSON keeps them as text, as its reader would have had to check them anyway.
"""

import json
import re

from engines.protocol.marks import overlap
from engines.protocol.reading import Piece

OPEN, CLOSE = "<tool_call>", "</tool_call>"
HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\<]|\\.)+")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
TURNS = re.compile(r'["\\{}\[\]<]')


class HermesReader:
    """Implements reading.ToolReader."""

    def __init__(self) -> None:
        self._held = ""
        self._place = "text"
        self._gap = ""  # white space before a call; said only if it was no call
        self._calls = 0
        self._depth = 0
        self._in_string = False

    def push(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        steps = {
            "text": self._text,
            "head": self._head,
            "arguments": self._arguments,
            "tail": self._tail,
        }
        while steps[self._place](pieces):
            pass
        return pieces

    def end(self, *, was_cut: bool) -> list[Piece]:
        held, self._held = self._held, ""
        pieces: list[Piece] = []
        if self._place == "text":
            rest = self._gap + held
            _say(pieces, rest if rest.strip() or not self._calls else "")
        elif self._place == "head" and (was_cut or not self._whole_call(pieces, held)):
            _say(pieces, self._gap + OPEN + held)
        elif self._place == "tail":
            _say(pieces, held.strip().strip("}").strip())
        return pieces

    def _text(self, pieces: list[Piece]) -> bool:
        at = self._held.find(OPEN)
        certain = len(self._held) - overlap(self._held, OPEN) if at < 0 else at
        text = self._gap + self._held[:certain]
        said = text.rstrip()
        _say(pieces, said)
        self._gap = text[len(said) :]
        self._held = self._held[certain if at < 0 else at + len(OPEN) :]
        if at >= 0:
            self._place = "head"
        return at >= 0

    def _head(self, pieces: list[Piece]) -> bool:
        if found := HEAD.match(self._held):
            try:
                name = json.loads(found[1])
            except ValueError:
                name = found[1].strip('"')
            self._begin(pieces, name)
            self._held = self._held[found.end() :]
            self._place, self._depth, self._in_string = "arguments", 0, False
            return True
        body, closed, rest = self._held.partition(CLOSE)
        if not closed:
            return False
        if not self._whole_call(pieces, body):
            _say(pieces, self._gap + OPEN + body + CLOSE)
        self._held, self._gap, self._place = rest, "", "text"
        return True

    def _arguments(self, pieces: list[Piece]) -> bool:
        """Passes on what belongs to the object that began; where it ends, the tail begins."""
        at = 0
        while found := TURNS.search(self._held, at):
            at = found.end()
            mark = found[0]
            if mark == "\\" and self._in_string:
                if at == len(self._held):  # what it escapes has not come
                    at -= 1
                    break
                at += 1
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(mark, 0)
                if self._depth == 0 or mark == "<":
                    at -= mark == "<"  # cannot be in JSON: the closing tag came too early
                    self._place = "tail"
                    break
        else:
            at = len(self._held)
        if at:
            pieces.append(Piece("arguments", self._held[:at], self._calls - 1))
        self._held = self._held[at:]
        return self._place == "tail"

    def _tail(self, pieces: list[Piece]) -> bool:
        body, closed, rest = self._held.partition(CLOSE)
        if not closed:
            return False
        _say(pieces, body.strip().strip("}").strip())
        self._held, self._place = rest, "text"
        return True

    def _whole_call(self, pieces: list[Piece], body: str) -> bool:
        """Reads a call in any order; false if it is none."""
        try:
            values = json.loads(body)
        except ValueError:
            return False
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            return False
        arguments = values.get("arguments", values.get("parameters", {}))
        if isinstance(arguments, str):  # JSON within JSON
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError:
                return False
        if not values["name"] or not isinstance(arguments, dict | None):
            return False
        self._begin(pieces, values["name"])
        text = json.dumps(arguments or {}, ensure_ascii=False)
        pieces.append(Piece("arguments", text, self._calls - 1))
        return True

    def _begin(self, pieces: list[Piece], name: str) -> None:
        pieces.append(Piece("call", name, self._calls))
        self._calls += 1
        self._gap = ""


def _say(pieces: list[Piece], text: str) -> None:
    if text:
        pieces.append(Piece("content", text))
