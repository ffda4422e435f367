"""From what people ask for to scorers, every option checked, and back."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from common.errors import InvalidInput
from training.metrics import fields, matching, overlap
from training.metrics.judge import Judge
from training.metrics.likelihood import Perplexity
from training.metrics.scorer import OptionError, Scorer

Metric = (
    matching.ExactMatch
    | fields.JsonFields
    | overlap.Rouge
    | overlap.Bleu
    | overlap.Chrf
    | matching.Regex
    | matching.Numeric
    | matching.Contains
    | Judge
    | Perplexity
)
KINDS: dict[str, type[Metric]] = {
    "exact_match": matching.ExactMatch,
    "json_fields": fields.JsonFields,
    "rouge": overlap.Rouge,
    "bleu": overlap.Bleu,
    "chrf": overlap.Chrf,
    "regex": matching.Regex,
    "numeric": matching.Numeric,
    "contains": matching.Contains,
    "judge": Judge,
    "perplexity": Perplexity,
}
MAX_METRICS = 16
NAME = regex.compile(r"[a-z][a-z0-9_-]{0,39}")
RESERVED = ("valid_json", "field", "loss", "perplexity", "examples", "errors")
FIELD = "metrics"
JSON_TYPES: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean"}


def read(asked: Sequence[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """Raises InvalidInput naming the entry and its option, as in `metrics.0.pattern`."""
    if not isinstance(asked, list | tuple) or len(asked) > MAX_METRICS:
        raise InvalidInput(
            "This is not a list of metrics.",
            field=FIELD,
            remedy=f'Give up to {MAX_METRICS} objects such as {{"kind": "rouge"}}.',
        )
    found = tuple(_read_one(each, f"{FIELD}.{index}") for index, each in enumerate(asked))
    names = [metric.name for metric in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidInput(
                f"Two metrics are called {name!r}.",
                field=f"{FIELD}.{index}.name",
                remedy="Give one of them another name.",
            )
    if sum(isinstance(each, fields.JsonFields) for each in found) > 1:
        raise InvalidInput(
            "Fields are compared in one way at a time.",
            field=FIELD,
            remedy="Leave one json_fields in the list.",
        )
    return found


def scorers(asked: Sequence[Mapping[str, Any]]) -> list[Scorer]:
    """Those that need nothing but the two texts: judges come later."""
    return [each for each in read(asked) if not isinstance(each, Judge | Perplexity)]


def write(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """As `read` takes it, with what differs from the defaults alone."""
    return [_write_one(each) for each in metrics]


def kind_of(metric: Metric) -> str:
    return next(kind for kind, cls in KINDS.items() if type(metric) is cls)


def describe() -> list[dict[str, Any]]:
    """Every kind with its options as JSON Schema, for clients that build forms."""
    return [
        {
            "kind": kind,
            "label": cls.label,
            "about": " ".join((cls.__doc__ or "").split()),
            "options": {
                "type": "object",
                "properties": dict(_options(cls)),
                "additionalProperties": False,
            },
        }
        for kind, cls in KINDS.items()
    ]


def _read_one(asked: Any, path: str) -> Metric:
    if not isinstance(asked, Mapping):
        raise InvalidInput("This is no object.", field=path, remedy='Give {"kind": ...}.')
    given = dict(asked)
    cls = KINDS.get(str(given.pop("kind", "")))
    if cls is None:
        raise InvalidInput(
            "There is no such kind of metric.",
            field=f"{path}.kind",
            remedy=f"Use one of {', '.join(KINDS)}.",
        )
    hints = typing.get_type_hints(cls)
    known = {item.name for item in dataclasses.fields(cls)}
    for option, value in given.items():
        if option not in known:
            raise InvalidInput(
                "There is no such option.",
                field=f"{path}.{option}",
                remedy=f"Known are {', '.join(sorted(known))}.",
            )
        given[option] = _value(hints[option], value, f"{path}.{option}")
    metric = cls(**given)
    is_taken = metric.name in RESERVED and not isinstance(metric, Perplexity)
    if not NAME.fullmatch(metric.name) or is_taken:
        raise InvalidInput(
            f"{metric.name!r} cannot be a metric's name.",
            field=f"{path}.name",
            remedy="Use up to 40 small letters, digits, _ and -, a letter first; "
            f"{', '.join(RESERVED)} are taken.",
        )
    try:
        metric.check()
    except OptionError as error:
        raise InvalidInput(
            error.message, field=f"{path}.{error.option}", remedy=error.remedy
        ) from error
    return metric


def _value(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
        raise InvalidInput("This is not a list of texts.", field=path)
    if type(value) is not hint:
        raise InvalidInput(f"This is not of type {JSON_TYPES[hint]}.", field=path)
    if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
        raise InvalidInput("It holds characters that no text may have.", field=path)
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_one(metric: Metric) -> dict[str, Any]:
    options = {
        item.name: list(value) if isinstance(value, tuple) else value
        for item in dataclasses.fields(metric)
        if (value := getattr(metric, item.name)) != item.default
    }
    return {"kind": kind_of(metric)} | options


def _options(cls: type[Metric]) -> list[tuple[str, dict[str, Any]]]:
    hints = typing.get_type_hints(cls)
    found = []
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        if typing.get_origin(hint) in (tuple, types.GenericAlias):
            schema: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "default": []}
        else:
            schema = {"type": JSON_TYPES[hint], "default": item.default}
        found.append((item.name, schema))
    return found
