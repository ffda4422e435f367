"""The lines of a batch's input file, each checked as far as that needs no engine."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

MOST_LINES = 50_000
LONGEST_LINE_BYTES = 16 << 20
LONGEST_CUSTOM_ID = 512
MOST_ERRORS = 100  # told; with more, somebody has another problem than lines
CONTENT: dict[str, tuple[str, tuple[type, ...]]] = {
    "/v1/chat/completions": ("messages", (list,)),
    "/v1/completions": ("prompt", (str, list)),
    "/v1/embeddings": ("input", (str, list)),
}
FIELDS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True, slots=True)
class Line:
    """One request, and where it stands in the file. `number` counts from 1."""

    number: int
    custom_id: str
    model_name: str
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a line, in OpenAI's shape."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def as_body(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "line": self.line,
            "message": self.message,
            "param": self.param,
        }


class _Wrong(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def read_lines(
    file: BinaryIO, *, endpoint: str, why_not: Callable[[str], str]
) -> tuple[list[Line], list[LineError]]:
    """All lines and all errors, the file read once. `why_not` says why a model may not be asked,
    or nothing."""
    lines: list[Line] = []
    errors: list[LineError] = []
    ids: set[str] = set()
    models: dict[str, str] = {}

    def refused(model: str) -> str:
        if model not in models:
            models[model] = why_not(model)
        return models[model]

    for number, offset, text in _raw_lines(file):
        try:
            if number > MOST_LINES:
                raise _Wrong("too_many_lines", f"A batch has at most {MOST_LINES:,} lines.")
            values = _read(text)
            custom_id, model = _check(values, endpoint)
            if custom_id in ids:
                raise _Wrong(
                    "duplicate_custom_id",
                    f"'{custom_id}' is the custom_id of two lines.",
                    "custom_id",
                )
            ids.add(custom_id)
            if why := refused(model):
                raise _Wrong("model_not_found", why, "body.model")
            lines.append(Line(number, custom_id, model, offset, len(text)))
        except _Wrong as error:
            errors.append(LineError(error.code, str(error), number, error.param))
            if len(errors) >= MOST_ERRORS or error.code == "too_many_lines":
                break
    if not lines and not errors:
        errors.append(LineError("empty_file", "There is no line in the file."))
    return lines, errors


def _raw_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and bytes of every line that is not empty. A line that is too long comes cut,
    and the file ends with it."""
    number = offset = 0
    while text := file.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if text.strip():
            yield number, offset, text
        offset += len(text)
        if len(text) > LONGEST_LINE_BYTES:
            return


def _read(text: bytes) -> dict[str, Any]:
    if len(text) > LONGEST_LINE_BYTES:
        raise _Wrong("line_too_long", f"A line has at most {LONGEST_LINE_BYTES:,} bytes.")
    try:
        values = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _Wrong("invalid_json_line", f"This line is not JSON: {error}.") from None
    if not isinstance(values, dict):
        raise _Wrong("invalid_json_line", "This line is not a JSON object.")
    return values


def _check(values: dict[str, Any], endpoint: str) -> tuple[str, str]:
    """custom_id and model."""
    for name in values.keys() - FIELDS:
        raise _Wrong("unknown_parameter", f"'{name}' is no field of a line.", name)
    custom_id = values.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= LONGEST_CUSTOM_ID:
        raise _Wrong(
            "missing_required_parameter",
            f"'custom_id' must be a text of 1 to {LONGEST_CUSTOM_ID} characters.",
            "custom_id",
        )
    if not custom_id.isprintable():
        raise _Wrong("invalid_custom_id", "'custom_id' must be printable.", "custom_id")
    if values.get("method") != "POST":
        raise _Wrong("invalid_method", "'method' must be POST.", "method")
    if values.get("url") != endpoint:
        raise _Wrong("invalid_url", f"'url' must be {endpoint}, the batch's endpoint.", "url")
    body = values.get("body")
    if not isinstance(body, dict):
        raise _Wrong("missing_required_parameter", "'body' must be an object.", "body")
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 200 or not model.isprintable():
        raise _Wrong("missing_required_parameter", "'model' is required.", "body.model")
    name, kind = CONTENT[endpoint]
    if not isinstance(body.get(name), kind):
        raise _Wrong("missing_required_parameter", f"'{name}' is required.", f"body.{name}")
    if body.get("stream"):
        raise _Wrong("unsupported_parameter", "Answers of batches do not stream.", "body.stream")
    return custom_id, model
