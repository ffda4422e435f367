"""The form an answer must have: JSON of a schema, a regular expression, or one of some texts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from engines.protocol import fields
from engines.protocol.errors import ApiError, invalid, unsupported

MAX_SCHEMA_BYTES = 128 << 10
MAX_REGEX_LENGTH = 4096
MAX_CHOICES = 1024


@dataclass(frozen=True, slots=True)
class Structure:
    """`value` is a schema (an object), a pattern, or a list of texts; `param` is who asked for it.

    `is_strict`: words of a schema that cannot be kept to are refused, not ignored.
    """

    kind: Literal["json", "regex", "choice"]
    value: Any
    param: str
    is_strict: bool = True


def read_structure(body: Mapping[str, Any]) -> Structure | None:
    """From OpenAI's `response_format` or vLLM's `structured_outputs` and `guided_*`."""
    wanted = [_read_format(body), *_read_constraints(body)]
    found = [each for each in wanted if each is not None]
    if len(found) > 1:
        raise invalid(found[1].param, f"'{found[1].param}' contradicts '{found[0].param}'.")
    return found[0] if found else None


def _read_format(body: Mapping[str, Any]) -> Structure | None:
    param = "response_format"
    form = fields.mapping(body, param)
    match form.get("type", "text"):
        case "text":
            return None
        case "json_object":
            return Structure("json", {"type": "object"}, param)
        case "json_schema":
            given = fields.mapping(form, "json_schema", prefix=f"{param}.")
            where = f"{param}.json_schema.schema"
            if given.get("schema") is None:
                raise invalid(where, f"'{where}' is required.", code="missing_required_parameter")
            strict = fields.boolean(given, "strict", prefix=f"{param}.json_schema.")
            return _schema(given["schema"], where, is_strict=strict)
        case kind:
            raise unsupported(f"{param}.type", f"response_format {kind!r} is not supported.")


def _read_constraints(body: Mapping[str, Any]) -> list[Structure]:
    newer = fields.mapping(body, "structured_outputs")
    given = {f"structured_outputs.{name}": value for name, value in newer.items()}
    older = {name: value for name, value in body.items() if name.startswith("guided_")}
    found: list[Structure] = []
    for param, value in (given | older).items():
        if value in (None, [], {}, "", False):
            continue
        match param.removeprefix("structured_outputs.").removeprefix("guided_"):
            case "json":
                found.append(_schema(value, param, is_strict=True))
            case "json_object":
                found.append(Structure("json", {"type": "object"}, param))
            case "regex":
                found.append(_regex(value, param))
            case "choice":
                found.append(_choice(value, param))
            case _:
                raise unsupported(param, f"'{param}' is not supported by this model's engine.")
    return found


def _schema(value: Any, param: str, *, is_strict: bool) -> Structure:
    if isinstance(value, str):  # vLLM takes it as text too
        try:
            value = json.loads(value)
        except ValueError as error:
            raise _no_schema(param, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _no_schema(param, "must be a JSON Schema object")
    try:
        size = len(orjson.dumps(value))
    except TypeError as error:  # orjson's way to say that it is nested too deeply
        raise _no_schema(param, f"is too deep: {error}") from None
    if size > MAX_SCHEMA_BYTES:
        raise _no_schema(param, f"has more than {MAX_SCHEMA_BYTES} bytes")
    return Structure("json", value, param, is_strict)


def _no_schema(param: str, problem: str) -> ApiError:
    return invalid(param, f"'{param}' {problem}.", code="invalid_json_schema")


def _regex(value: Any, param: str) -> Structure:
    if not isinstance(value, str) or len(value) > MAX_REGEX_LENGTH:
        raise invalid(param, f"'{param}' must be a text of at most {MAX_REGEX_LENGTH} characters.")
    return Structure("regex", value, param)


def _choice(value: Any, param: str) -> Structure:
    sound = isinstance(value, list) and all(isinstance(each, str) and each for each in value)
    if not sound or len(value) > MAX_CHOICES:
        raise invalid(param, f"'{param}' must be a list of up to {MAX_CHOICES} texts.")
    return Structure("choice", tuple(value), param)
