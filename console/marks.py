"""Where in a line a finding lies: the turns it speaks of, and the words in them that it means."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from console.dataset_report import Turn
from training.doctor import privacy
from training.doctor.findings import KINDS
from training.doctor.turns import CONTROL
from training.models import DatasetFinding

LEAST_CHARACTERS = 2  # of a value that is worth marking wherever it stands
MOST_MARKS = 200  # in one text


@dataclass(frozen=True)
class Piece:
    """A part of a text, marked or not. What cannot be seen has `name` for its text."""

    text: str
    is_marked: bool = False
    name: str = ""


@dataclass(frozen=True)
class MarkedTurn:
    role: str
    note: str
    pieces: list[Piece]
    is_meant: bool  # the finding speaks of this turn


def mark(turns: Sequence[Turn], findings: Iterable[DatasetFinding]) -> list[MarkedTurn]:
    """The turns of a line with what its findings mean marked in them."""
    rows = list(findings)
    return [
        MarkedTurn(
            role=turn.role,
            note=turn.note,
            pieces=_pieces(turn.text, [row for row in rows if _means(row, number, turns)]),
            is_meant=any(_means(row, number, turns) for row in rows),
        )
        for number, turn in enumerate(turns)
    ]


def _means(row: DatasetFinding, number: int, turns: Sequence[Turn]) -> bool:
    """A field such as messages.2 names the turn by its number; fields of answers the last one."""
    group = KINDS[row.kind].group
    if group in ("leakage", "duplicates", "labels"):
        return group == "labels" and number == len(turns) - 1
    if row.kind == "contradiction":
        return number == len(turns) - 1
    if row.kind == "same_outputs":
        return number >= len(turns) - 2
    return row.field == f"messages.{number}"


def _pieces(text: str, rows: Sequence[DatasetFinding]) -> list[Piece]:
    spans = sorted(span for row in rows for span in _spans(text, row))[:MOST_MARKS]
    pieces: list[Piece] = []
    at = 0
    for begin, end in spans:
        if begin < at:
            continue
        if begin > at:
            pieces.append(Piece(text[at:begin]))
        marked = text[begin:end]
        name = f"U+{ord(marked):04X}" if CONTROL.fullmatch(marked) else ""
        pieces.append(Piece(marked, True, name))
        at = end
    if at < len(text):
        pieces.append(Piece(text[at:]))
    return pieces


def _spans(text: str, row: DatasetFinding) -> list[tuple[int, int]]:
    """(begin, end) of what the finding means; none where it means the whole turn."""
    kind = KINDS[row.kind]
    if kind.group == "privacy":
        values = {value for found, value in privacy.find(text) if found == row.kind}
        return [span for value in values for span in _places(text, value)]
    if row.kind == "control_characters":
        return [found.span() for found in CONTROL.finditer(text)]
    if row.kind == "encoding":
        return _places(text, row.excerpt.removesuffix("…"))
    if kind.group == "labels":
        return _places(text, row.excerpt.partition(" = ")[2])
    return []


def _places(text: str, value: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    if len(value) < LEAST_CHARACTERS:
        return found
    at = text.find(value)
    while at >= 0 and len(found) < MOST_MARKS:
        found.append((at, at + len(value)))
        at = text.find(value, at + len(value))
    return found
