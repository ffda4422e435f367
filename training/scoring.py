"""Scoring answers against what they should have been. Pure.

Where the expected answer is a JSON object or list, answers are compared as parsed JSON: order of
keys and white space do not count, types do (1 is not "1", nor true). Other expectations are
compared as text, white space around them aside.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from common.texts import storable


@dataclass(frozen=True)
class Score:
    """One answer. `is_json` is None where no JSON was expected; `fields` has one entry for every
    key of an expected object."""

    is_exact: bool
    is_json: bool | None = None
    fields: dict[str, bool] = field(default_factory=dict)


def score(expected: str, answer: str) -> Score:
    """How an answer compares with what was expected."""
    wanted, is_structure = _parse(expected)
    if not is_structure or not isinstance(wanted, dict | list):
        return Score(is_exact=answer.strip() == expected.strip())
    given, is_json = _parse(answer)
    fields = {}
    if isinstance(wanted, dict):
        found = given if isinstance(given, dict) else {}
        fields = {storable(key): key in found and _same(found[key], wanted[key]) for key in wanted}
    return Score(is_exact=is_json and _same(given, wanted), is_json=is_json, fields=fields)


def summarize(scores: Iterable[Score]) -> dict[str, Any]:
    """Shares over all scores: {"examples", "exact_match", "valid_json", "fields": {name: share}}.

    `valid_json` is None where no answer was to be JSON; a field's share is over the examples whose
    expectation has it.
    """
    examples = exact = asked_json = valid_json = 0
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for each in scores:
        examples += 1
        exact += each.is_exact
        asked_json += each.is_json is not None
        valid_json += bool(each.is_json)
        asked.update(each.fields.keys())
        right.update(name for name, is_right in each.fields.items() if is_right)
    return {
        "examples": examples,
        "exact_match": exact / examples if examples else 0.0,
        "valid_json": valid_json / asked_json if asked_json else None,
        "fields": {name: right[name] / count for name, count in asked.items()},
    }


def _parse(text: str) -> tuple[Any, bool]:
    try:
        return json.loads(text), True
    except (ValueError, RecursionError):
        return None, False


def _same(left: Any, right: Any) -> bool:
    """Equal as JSON: Python would take 1, 1.0 and True for the same."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
