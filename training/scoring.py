"""Scoring answers against what they should have been. Pure.

Whatever else is asked for, an answer always has `exact_match`, and where a JSON object or list is
expected `valid_json` and one `field.<key>` for every key of an expected object.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.metrics.fields import JsonFields
from training.metrics.matching import ExactMatch
from training.metrics.scorer import Scorer
from training.metrics.structures import structure

EXACT, FIELD, VALID_JSON = "exact_match", "field.", "valid_json"
DEFAULTS: tuple[Scorer, ...] = (ExactMatch(), JsonFields(name=""))


@dataclass(frozen=True)
class Score:
    """One answer. `is_json` is None where no JSON was expected; `fields` has one entry for every
    field that was compared; `scores` is all of it and more, flat, as numbers."""

    is_exact: bool
    is_json: bool | None = None
    fields: dict[str, bool] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict, compare=False)


def score(expected: str, answer: str, scorers: Sequence[Scorer] = ()) -> Score:
    """How an answer compares with what was expected. A scorer takes the place of the default one
    that measures the same."""
    scores: dict[str, float] = {}
    if structure(expected) is not None:
        scores[VALID_JSON] = float(_is_json(answer))
    for scorer in (*_defaults_beside(scorers), *scorers):
        scores |= scorer.score(expected, answer)
    scores.setdefault(EXACT, 0.0)
    return _of(scores)


def nothing(expected: str, scorers: Sequence[Scorer] = ()) -> Score:
    """Of an answer that never came: wrong in every way that an answer could have been right."""
    asked = score(expected, expected, scorers).scores
    return _of(dict.fromkeys(asked, 0.0))


def summarize(scores: Iterable[Score]) -> dict[str, Any]:
    """Means over all scores: {"examples", "exact_match", "valid_json", "fields": {name: share},
    "metrics": {name: mean}}.

    `valid_json` is None where no answer was to be JSON; every mean is over the examples that have
    the score.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    counts: defaultdict[str, int] = defaultdict(int)
    examples = 0
    for each in scores:
        examples += 1
        for name, value in each.scores.items():
            sums[name] += value
            counts[name] += 1
    return summary(examples, {name: sums[name] / counts[name] for name in sums})


def summary(examples: int, means: Mapping[str, float]) -> dict[str, Any]:
    """The same from means by name."""
    return {
        "examples": examples,
        "exact_match": means.get(EXACT, 0.0),
        "valid_json": means.get(VALID_JSON),
        "fields": {
            name.removeprefix(FIELD): mean for name, mean in means.items() if name.startswith(FIELD)
        },
        "metrics": dict(means),
    }


def _defaults_beside(scorers: Sequence[Scorer]) -> Iterable[Scorer]:
    for default in DEFAULTS:
        if not any(
            type(each) is type(default)
            and (isinstance(each, JsonFields) or each.name == default.name)
            for each in scorers
        ):
            yield default


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _of(scores: dict[str, float]) -> Score:
    return Score(
        is_exact=scores[EXACT] == 1.0,
        is_json=bool(scores[VALID_JSON]) if VALID_JSON in scores else None,
        fields={
            name.removeprefix(FIELD): value == 1.0
            for name, value in scores.items()
            if name.startswith(FIELD)
        },
        scores=scores,
    )
