"""Where an answer differs from what was expected, word by word."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

import regex

WORDS = regex.compile(r"\p{Han}|[\p{L}\p{N}]+|\s+|.")
MAX_WORDS = 1500  # of both together; longer texts are shown as they are


@dataclass(frozen=True)
class Part:
    """`kind`: same, missing (expected alone) or added (answered alone)."""

    kind: str
    text: str


def parts(expected: str, answer: str) -> list[Part]:
    """The answer with what it lacks put in between; the answer alone where it would take long."""
    wanted, given = WORDS.findall(expected), WORDS.findall(answer)
    if expected == answer or len(wanted) + len(given) > MAX_WORDS:
        return [Part("same", answer)]
    return list(_parts(wanted, given))


def _parts(wanted: list[str], given: list[str]) -> Iterator[Part]:
    matcher = SequenceMatcher(None, wanted, given, autojunk=False)
    if matcher.ratio() < 0.3:  # two different texts: marks would only be in the way
        yield Part("added", "".join(given))
        return
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            yield Part("same", "".join(given[c:d]))
            continue
        if b > a:
            yield Part("missing", "".join(wanted[a:b]))
        if d > c:
            yield Part("added", "".join(given[c:d]))
