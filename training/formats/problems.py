"""What is wrong with a line, and the questions that every format asks of a value."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from common import texts
from common.texts import Text, storable

KEY_CHARACTERS = 60  # of an unknown key that are told
QUOTED_CHARACTERS = 40
KINDS_OF_JSON = {
    dict: Text("an object"),
    list: Text("a list"),
    str: Text("a string"),
    bool: Text("true or false"),
}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line, where in it, and what to do about it."""

    code: str
    field: str  # dotted path inside the line, "" for the line as a whole
    message: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        """With what pages need to say it in another language (`common.texts`)."""
        return texts.with_makings(vars(self))


@dataclass
class Findings:
    """What looking at a line gathers: faults, and keys that nobody reads."""

    problems: list[Problem] = field(default_factory=list)
    unknown_keys: list[str] = field(default_factory=list)

    def add(self, code: str, path: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(code, path, message, remedy))

    def ignore(self, key: str, under: str = "") -> None:
        """Note a key that is left out of training."""
        name = storable(str(key), limit=KEY_CHARACTERS)
        self.unknown_keys.append(f"{under}.{name}" if under else name)


def check_text(path: str, text: Any) -> Iterator[Problem]:
    """A string with something in it that a database and a tokenizer can hold."""
    if text is None:
        yield Problem("content_missing", path, Text("There is no content."), Text("Add the text."))
    elif not isinstance(text, str):
        yield Problem(
            "content_not_text",
            path,
            Text("The content is %(what)s.", what=kind_of(text)),
            Text("Write a text."),
        )
    elif not text.strip():
        yield Problem(
            "content_empty",
            path,
            Text("The content is empty."),
            Text("Add text, or remove the line."),
        )
    elif "\0" in text:
        yield Problem(
            "content_has_nul",
            path,
            Text("The content holds a NUL character."),
            Text("Remove \\u0000 from it."),
        )
    elif not is_unicode(text):
        yield Problem(
            "content_not_unicode",
            path,
            Text("The content holds half of a surrogate pair."),
            Text("Write characters past U+FFFF as themselves, or as both \\u escapes."),
        )


def is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def quoted(value: object) -> str:
    """The beginning of a value, fit for a message."""
    text = storable(str(value))
    cut = len(text) > QUOTED_CHARACTERS
    return f"“{text[:QUOTED_CHARACTERS]}…”" if cut else f"“{text}”"


def kind_of(value: object) -> Text:
    for kind, name in KINDS_OF_JSON.items():
        if type(value) is kind:
            return name
    return Text("null") if value is None else Text("a number")
