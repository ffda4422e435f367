"""JSON values compared by what they mean: the order of keys is nothing, types and numbers are."""

import json
from collections.abc import Callable
from typing import Any

from training.metrics.scorer import is_near
from training.metrics.texts import Normal


def structure(text: str) -> dict[str, Any] | list[Any] | None:
    """The JSON object or list that the text is; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def same_json(given: Any, wanted: Any, **tolerance: Any) -> bool:
    """Equal as JSON, types included, up to tolerances of numbers and what `text` looks past."""
    try:
        return _same_json(given, wanted, **tolerance)
    except RecursionError:  # nested deeper than anybody means
        return False


def look_past(normal: Normal) -> Callable[[str], str]:
    """For the strings of a JSON value, whose white space is part of them unless told otherwise."""
    return str if normal == Normal() else normal.of


def at(value: Any, path: str) -> tuple[bool, Any]:
    """Whether there is something at a dotted path, and what. A key with dots in it comes first."""
    if isinstance(value, dict) and path in value:
        return True, value[path]
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _same_json(
    given: Any,
    wanted: Any,
    *,
    text: Callable[[str], str] = str,
    absolute: float = 0.0,
    relative: float = 0.0,
    lenient: bool = False,
) -> bool:
    if lenient and isinstance(given, str) != isinstance(wanted, str):
        given, wanted = _plain(given), _plain(wanted)
    if isinstance(wanted, bool) or isinstance(given, bool) or wanted is None:
        return given is wanted
    if isinstance(wanted, int | float) and isinstance(given, int | float):
        exact = type(given) is type(wanted) or lenient or absolute > 0 or relative > 0
        return exact and is_near(given, wanted, absolute, relative)
    if isinstance(wanted, str) and isinstance(given, str):
        return bool(text(given) == text(wanted))
    again: dict[str, Any] = {
        "text": text,
        "absolute": absolute,
        "relative": relative,
        "lenient": lenient,
    }
    if isinstance(wanted, list) and isinstance(given, list):
        pairs = zip(given, wanted, strict=False)
        return len(given) == len(wanted) and all(_same_json(g, w, **again) for g, w in pairs)
    if isinstance(wanted, dict) and isinstance(given, dict):
        return given.keys() == wanted.keys() and all(
            _same_json(given[key], wanted[key], **again) for key in wanted
        )
    return False


def _plain(value: Any) -> Any:
    """What a text says when it is read as JSON, if it can be."""
    if isinstance(value, str):
        try:
            return json.loads(value.strip())
        except (ValueError, RecursionError):
            return value
    return value
