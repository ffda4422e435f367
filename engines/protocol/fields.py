"""Reads typed fields of a JSON body; each refusal names the field. `null` counts as absent."""

import math
from collections.abc import Mapping
from typing import Any

from engines.protocol.errors import invalid


def integer(
    body: Mapping[str, Any], name: str, *, low: int, high: int, prefix: str = ""
) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    param = prefix + name
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # some clients write 16.0
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(param, f"'{param}' must be an integer.", code="invalid_type")
    if not low <= value <= high:
        raise invalid(param, f"'{param}' must be from {low} to {high}; got {value}.")
    return value


def number(body: Mapping[str, Any], name: str, *, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise invalid(name, f"'{name}' must be a number.", code="invalid_type")
    if not math.isfinite(value) or not low <= value <= high:
        raise invalid(name, f"'{name}' must be from {low:g} to {high:g}; got {value}.")
    return float(value)


def boolean(body: Mapping[str, Any], name: str, *, prefix: str = "") -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        param = prefix + name
        raise invalid(param, f"'{param}' must be true or false.", code="invalid_type")
    return value


def text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid(name, f"'{name}' must be a string.", code="invalid_type")
    return value


def integers(
    body: Mapping[str, Any], name: str, *, low: int, high: int, most: int
) -> tuple[int, ...]:
    values = body.get(name)
    if values is None:
        return ()
    if not isinstance(values, list) or len(values) > most:
        raise invalid(name, f"'{name}' must be a list of at most {most}.", code="invalid_type")
    items = [integer({name: value}, name, low=low, high=high) for value in values]
    return tuple(item for item in items if item is not None)


def mapping(body: Mapping[str, Any], name: str, *, prefix: str = "") -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        param = prefix + name
        raise invalid(param, f"'{param}' must be an object.", code="invalid_type")
    return value
