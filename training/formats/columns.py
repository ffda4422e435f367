"""Rows with columns of any name -> rows of a format: {"prompt": "question", "completion": "reply"}.

A mapping names, for each field that a format knows, the column that holds it. Texts that hold JSON
are read where the field wants a list (messages, tools, turns).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from common.texts import Text
from training import formats
from training.formats.problems import Findings

# What may be mapped; the set of fields given decides the format.
FIELDS = (
    "messages",
    "tools",
    "prompt",
    "completion",
    "system",
    "chosen",
    "rejected",
    "label",
    "instruction",
    "input",
    "output",
    "conversations",
)
LISTS = frozenset({"messages", "tools", "conversations"})  # always
MAYBE_LISTS = frozenset({"prompt", "completion", "chosen", "rejected"})  # texts too
# Columns by these names are taken for the fields without being asked for.
USUAL = {
    "question": "prompt",
    "query": "prompt",
    "answer": "completion",
    "response": "completion",
}


def guess(names: Sequence[str]) -> dict[str, str]:
    """A mapping for columns of usual names; empty if they make no format."""
    mapping = {name: name for name in names if name in FIELDS}
    if not formats.detect(dict.fromkeys(mapping)):
        for name in names:
            field = USUAL.get(name.strip().lower(), name.strip().lower())
            if field in FIELDS:
                mapping.setdefault(field, name)
    return mapping if formats.detect(dict.fromkeys(mapping)) else {}


def problem_with(mapping: Mapping[str, str], names: Sequence[str]) -> tuple[str, str] | None:
    """What is wrong with a mapping and what to do; None if nothing is."""
    unknown = [field for field in mapping if field not in FIELDS]
    if unknown:
        return (
            Text("%(name)s is no field.", name=repr(unknown[0])),
            Text("Use one of %(names)s.", names=list(FIELDS)),
        )
    missing = [column for column in mapping.values() if column not in names]
    if missing:
        return (
            Text("There is no column %(name)s.", name=repr(missing[0])),
            Text("The columns are %(names)s.", names=list(names)[:30] or "–"),
        )
    if not formats.detect(dict.fromkeys(mapping)):
        return (
            Text("These fields make no example."),
            Text("Map prompt and completion; or prompt, chosen and rejected; or messages."),
        )
    return None


def apply(found: Findings, mapping: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the mapped columns under the names of fields."""
    out: dict[str, Any] = {}
    for field, column in mapping.items():
        value = row.get(column)
        if value is None:
            continue
        if isinstance(value, str) and (
            field in LISTS or (field in MAYBE_LISTS and value.lstrip()[:2] in ("[{", "[ ", "[\n"))
        ):
            value = _read(found, field, column, value)
        elif isinstance(value, bool | int | float) and field != "label":
            value = str(value)  # a column of numbers is text to learn
        out[field] = value
    return out


def _read(found: Findings, field: str, column: str, text: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if field in LISTS:
            found.add(
                "column_not_json",
                column,
                Text("The %(field)s in this column are no JSON.", field=field),
                Text("Write a JSON list into the column."),
            )
        return text
