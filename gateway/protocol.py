"""What a client asks for, read just as far as the gateway needs it; the engine checks the rest."""

import zlib
from dataclasses import dataclass
from typing import Any

import orjson

from engines.protocol.errors import ApiError, invalid
from gateway import errors

# What each endpoint cannot do without, beside `model`.
CONTENT = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}
MOST_OPENING = 4  # messages
OPENING_CHARACTERS = 2048
INCLUDE_USAGE = b'"stream_options":{"include_usage":true},'


@dataclass(slots=True)
class Call:
    """A completion that a client asks for. `wants_usage`: it asked for the stream's usage chunk;
    `max_output_tokens`: the bound it set on all that is written together, if any."""

    endpoint: str
    model: str
    stream: bool
    wants_usage: bool
    has_options: bool  # for its stream
    body: bytes
    max_output_tokens: int | None = None
    answers: int = 1  # that it asks for: choices of prompts
    affinity: int = 0  # equal where the beginning is the same; 0 where that is worth nothing

    def body_for(self, served_model_name: str) -> bytes:
        """The body as the engine gets it: the client's own bytes, but that a stream always counts.

        `model` is rewritten only where the engine knows its model by another name.
        """
        forced = self.stream and not self.wants_usage
        if self.model == served_model_name and not forced:
            return self.body
        if self.model == served_model_name and not self.has_options:
            start = self.body.index(b"{") + 1
            return self.body[:start] + INCLUDE_USAGE + self.body[start:]
        values = orjson.loads(self.body)  # seldom: what was read of it is not kept meanwhile
        values["model"] = served_model_name
        if forced:
            options = values.get("stream_options") or {}
            values["stream_options"] = options | {"include_usage": True}
        return orjson.dumps(values)


def read_call(endpoint: str, body: bytes) -> Call:
    """Raises ApiError (400) that names the field at fault."""
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise errors.invalid_body(f"The body is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(values, dict):
        raise errors.invalid_body("The body must be a JSON object.", code="invalid_type")
    model = values.get("model")
    if model is None:
        raise _missing("model")
    if not isinstance(model, str):
        raise _wrong_type("model", "a string")
    content = CONTENT[endpoint]
    if values.get(content) is None:
        raise _missing(content)
    if content == "messages" and not isinstance(values[content], list):
        raise _wrong_type(content, "a list")
    stream = values.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong_type("stream", "true or false")
    options = values.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong_type("stream_options", "an object")
    return Call(
        endpoint=endpoint,
        model=model,
        stream=bool(stream),
        wants_usage=bool(options and options.get("include_usage")),
        has_options="stream_options" in values,
        body=body,
        max_output_tokens=0 if endpoint == "embeddings" else _bound(values),
        answers=_answers(values),
        affinity=_affinity(endpoint, values),
    )


def _affinity(endpoint: str, values: dict[str, Any]) -> int:
    """What an engine may still have of it in its cache: a conversation to the end of the first
    thing a person says in it, which all of its turns share, or the beginning of a prompt."""
    if endpoint == "completions":
        prompt = values["prompt"]
        return _checksum(prompt, 0) if isinstance(prompt, str) else 0
    if endpoint != "chat/completions":
        return 0
    checksum = 0
    for message in values["messages"][:MOST_OPENING]:
        if not isinstance(message, dict):
            return 0
        content = message.get("content")
        if isinstance(content, str):
            checksum = _checksum(content, checksum)
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    checksum = _checksum(part["text"], checksum)
        if message.get("role") == "user":
            break
    return checksum


def _checksum(text: str, before: int) -> int:
    return zlib.crc32(text[:OPENING_CHARACTERS].encode(errors="replace"), before)


def _bound(values: dict[str, Any]) -> int | None:
    """None where it is not said, or in a way that the engine will refuse."""
    each = values.get("max_completion_tokens") or values.get("max_tokens")
    if type(each) is not int or each < 0:
        return None
    return each * _answers(values)


def _answers(values: dict[str, Any]) -> int:
    """How many an engine is to write; 1 where the client says it in a way that will be refused."""
    choices = values.get("n") or 1
    prompts = values.get("prompt") or values.get("input")
    several = 1
    if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
        several = len(prompts)  # a list of numbers is one, in tokens
    return several * choices if type(choices) is int and choices > 0 else several


def _missing(param: str) -> ApiError:
    return invalid(param, f"'{param}' is required.", code="missing_required_parameter")


def _wrong_type(param: str, wanted: str) -> ApiError:
    return invalid(param, f"'{param}' must be {wanted}.", code="invalid_type")
