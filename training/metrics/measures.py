"""What a number in a result was measured by: a metric *as configured*, whatever it was called.

Two metrics named `regex` with different patterns are two measures; one pattern under two names is
one. The key says so: the kind's own name for a score, and where options differ from the defaults a
fingerprint of them, as in `exact_match`, `rouge_l`, `regex#1f0c9a3b57`. Results keep it and gates
go by it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.metrics import reading
from training.metrics.fields import JsonFields
from training.metrics.judge import Judge
from training.metrics.likelihood import SCORES, Perplexity
from training.metrics.matching import ExactMatch
from training.metrics.overlap import Rouge
from training.metrics.reading import Metric
from training.metrics.scorer import OptionError

FIELD = "field."
SHOWN_CHARACTERS = 60  # of a pattern or rubric in a label
# Of loss and what follows from it less is better, whoever measured it and of whichever task.
LOWER_IS_BETTER = frozenset(
    {
        "loss",
        "perplexity",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
        "brier_score",
        "ter",
    }
)

NUMBERS = frozenset({"bleu", "chrf", "mcc"})  # of lm-eval, which are no shares of 1


@dataclass(frozen=True)
class Measure:
    """`metric` is how to ask for it again, None where no evaluation of answers measures it;
    `unit` is share (0 to 1), rating (1 to 5) or number."""

    key: str
    label: str
    metric: dict[str, Any] | None = None
    lower_is_better: bool = False
    unit: str = "share"

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def find(asked: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Measure]:
    """By the names of scores in an evaluation that asked for these metrics, what each is."""
    metrics = reading.read(list(asked))
    return {name: _find_one(metrics, name) for name in names}


def of_metric(metric: Metric, score: str = "") -> Measure:
    """Of one score of a metric, named as the kind itself names it (`rouge_l`, `field.intent`)."""
    kind = reading.kind_of(metric)
    base = score or kind
    options = _options(metric)
    if base.startswith(FIELD):  # which other fields were asked for changes nothing here
        options.pop("fields", None)
    mark = f"#{_fingerprint(options)}" if options else ""
    is_rating = isinstance(metric, Judge) and metric.mode == "score"
    return Measure(
        key=f"{base}{mark}",
        label=f"{base} {_told(metric, options)}".strip(),
        metric={"kind": kind} | options,
        lower_is_better=isinstance(metric, Perplexity),
        unit="rating" if is_rating else "number" if isinstance(metric, Perplexity) else "share",
    )


def of_name(name: str) -> Measure:
    """Of a score that no metric of the list gave, such as `valid_json` or `perplexity`."""
    is_lower = is_lower_better(name)
    parts = name.split(".")
    is_number = is_lower or (parts[0] == "lm" and parts[2:3] != [] and parts[2] in NUMBERS)
    return Measure(name, name, lower_is_better=is_lower, unit="number" if is_number else "share")


def of_default(name: str) -> Measure | None:
    """What a name alone means: the score of a kind whose options are left as they are. None for
    kinds that mean nothing without options (regex, judge) and for what is no kind's score."""
    if name.startswith(FIELD):
        return of_metric(JsonFields(), name)
    for cls in reading.KINDS.values():
        metric = cls()
        if name in scores_of(metric):
            try:
                metric.check()
            except OptionError:
                return None
            return of_metric(metric, name)
    return None


def scores_of(metric: Metric) -> tuple[str, ...]:
    """The kind's own names of what it gives; of fields, their mean alone."""
    kind = reading.kind_of(metric)
    if isinstance(metric, Perplexity):
        return SCORES
    if isinstance(metric, Rouge):
        return tuple(f"{kind}_{end}" for end in ("1", "2", "l"))
    return (kind,)


def is_lower_better(name: str) -> bool:
    """By a score's name or key, a task's before it or none: `wikitext.word_perplexity`."""
    parts = name.partition("#")[0].split(".")
    if parts[0] == "lm" and len(parts) > 2:  # lm.<task>.<metric>, and perhaps a filter's name
        return parts[2] in LOWER_IS_BETTER
    return parts[-1] in LOWER_IS_BETTER


def _find_one(metrics: Sequence[Metric], name: str) -> Measure:
    fields = next((each for each in metrics if isinstance(each, JsonFields)), JsonFields())
    if name.startswith(FIELD):
        return of_metric(fields, name)
    for each in metrics:
        kind = reading.kind_of(each)
        for score in scores_of(each):
            if name == score.replace(kind, each.name, 1):
                return of_metric(each, score)
    if name == reading.kind_of(ExactMatch()):  # always measured
        return of_metric(ExactMatch())
    return of_name(name)


def _options(metric: Metric) -> dict[str, Any]:
    """What differs from the defaults, less the name."""
    options = reading.write([metric])[0]
    return {name: value for name, value in options.items() if name not in ("kind", "name")}


def _fingerprint(options: Mapping[str, Any]) -> str:
    text = json.dumps(options, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _told(metric: Metric, options: Mapping[str, Any]) -> str:
    """The options, short, in words that are the same in every language."""
    parts = []
    for name, value in options.items():
        if value is True:
            parts.append(name)
        elif isinstance(value, str):
            short = value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "…"
            parts.append(f"{name} “{short.strip()}”")
        elif isinstance(value, list):
            parts.append(f"{name} {', '.join(value)}"[:SHOWN_CHARACTERS])
        else:
            parts.append(f"{name} {value}")
    return f"({', '.join(parts)})" if parts else ""
