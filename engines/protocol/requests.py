"""What clients ask for: JSON bodies of the two completion routes, read into checked values.

Fields nobody defined are ignored; fields of the API that we cannot honour are refused by name,
so that no client believes it got what it asked for.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.protocol import fields
from engines.protocol.errors import ApiError, invalid, no_such_model, unsupported

MAX_CHOICES = 128
MAX_STOPS = 4
MAX_TOP_LOGPROBS = 20
MAX_PROMPTS = 256
ROLES = ("system", "developer", "user", "assistant")

# Fields of OpenAI's and of other engines' APIs whose absence from the answer a client would miss.
CHAT_UNSUPPORTED = (
    "tools", "functions", "function_call", "audio", "prediction", "web_search_options",
    "reasoning_effort", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
    "guided_grammar",
)  # fmt: skip
COMPLETION_UNSUPPORTED = (
    "suffix", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
    "guided_grammar", "response_format",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen. Defaults are OpenAI's; `top_k` 0 and `min_p` 0 mean no such limit."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None  # None: until the context is full
    ignore_eos: bool = False
    logprobs: int | None = None  # None: not wanted; else how many alternatives a token


@dataclass(frozen=True, kw_only=True)
class Request:
    """One checked request. A chat has `messages`; a completion has `prompts`, text or token ids."""

    is_chat: bool
    model: str  # the name asked for: the base's or one of its adapters'
    priority: int = 0  # lower is sooner; among equals, first come first served
    messages: Sequence[dict[str, str]] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    prompts: Sequence[str | list[int]] = ()
    sampling: Sampling
    choices: int = 1  # for each prompt
    stream: bool = False
    include_usage: bool = False


def read_chat(body: Any, *, models: Collection[str], defaults: Sampling) -> Request:
    """A body of POST /v1/chat/completions. Raises ApiError naming the field at fault."""
    body = _object(body, models)
    _refuse(body, CHAT_UNSUPPORTED)
    if body.get("tool_choice") not in (None, "none", "auto"):
        raise unsupported("tool_choice", "Tool calls are not supported by this model's engine.")
    if body.get("modalities") not in (None, ["text"]):
        raise unsupported("modalities", 'Only ["text"] is supported.')
    form = fields.mapping(body, "response_format").get("type", "text")
    if form != "text":
        raise unsupported(
            "response_format", f"response_format {form!r} is not supported; use text."
        )
    stream, include_usage = _stream(body)
    return Request(
        is_chat=True,
        model=body["model"],
        priority=_priority(body),
        messages=_messages(body.get("messages")),
        template_arguments=fields.mapping(body, "chat_template_kwargs"),
        sampling=_sampling(body, defaults, logprobs=_chat_logprobs(body), is_chat=True),
        choices=fields.integer(body, "n", low=1, high=MAX_CHOICES) or 1,
        stream=stream,
        include_usage=include_usage,
    )


def read_completion(body: Any, *, models: Collection[str], defaults: Sampling) -> Request:
    """A body of POST /v1/completions. Raises ApiError naming the field at fault."""
    body = _object(body, models)
    _refuse(body, COMPLETION_UNSUPPORTED)
    if fields.boolean(body, "echo"):
        raise unsupported("echo", "Echoing the prompt is not supported.")
    choices = fields.integer(body, "n", low=1, high=MAX_CHOICES) or 1
    if body.get("best_of") not in (None, choices):
        raise unsupported("best_of", "best_of is not supported beyond n.")
    logprobs = fields.integer(body, "logprobs", low=0, high=MAX_TOP_LOGPROBS)
    prompts = _prompts(body.get("prompt"))
    if len(prompts) * choices > MAX_PROMPTS:
        raise invalid("prompt", f"Prompts times n must be at most {MAX_PROMPTS}.")
    stream, include_usage = _stream(body)
    return Request(
        is_chat=False,
        model=body["model"],
        priority=_priority(body),
        prompts=prompts,
        sampling=_sampling(body, defaults, logprobs=logprobs, is_chat=False),
        choices=choices,
        stream=stream,
        include_usage=include_usage,
    )


def _object(body: Any, models: Collection[str]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type")
    model = fields.text(body, "model")
    if model is None:
        raise invalid("model", "'model' is required.", code="missing_required_parameter")
    if model not in models:
        raise no_such_model(model)
    return body


def _refuse(body: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if body.get(name) not in (None, [], {}, ""):
            raise unsupported(name, f"'{name}' is not supported by this model's engine.")


def _priority(body: Mapping[str, Any]) -> int:
    return fields.integer(body, "priority", low=-(1 << 31), high=(1 << 31) - 1) or 0


def _stream(body: Mapping[str, Any]) -> tuple[bool, bool]:
    stream = fields.boolean(body, "stream")
    options = fields.mapping(body, "stream_options")
    if options and not stream:
        raise invalid("stream_options", "'stream_options' is only allowed with 'stream': true.")
    return stream, fields.boolean(options, "include_usage", prefix="stream_options.")


def _messages(value: Any) -> list[dict[str, str]]:
    if value is None:
        raise invalid("messages", "'messages' is required.", code="missing_required_parameter")
    if not isinstance(value, list) or not value:
        raise invalid("messages", "'messages' must be a list of at least one message.")
    return [_message(each, f"messages[{index}]") for index, each in enumerate(value)]


def _message(value: Any, param: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise invalid(param, f"'{param}' must be an object.", code="invalid_type")
    role = value.get("role")
    if role in ("tool", "function") or value.get("tool_calls") or value.get("function_call"):
        raise unsupported(param, "Tool calls are not supported by this model's engine.")
    if role not in ROLES:
        raise invalid(f"{param}.role", f"'{param}.role' must be one of {list(ROLES)}.")
    content = _content(value.get("content"), f"{param}.content")
    return {"role": "system" if role == "developer" else role, "content": content}


def _content(value: Any, param: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(param, f"'{param}' must be a string or a list of parts.", code="invalid_type")
    texts: list[str] = []
    for index, part in enumerate(value):
        where = f"{param}[{index}]"
        if not isinstance(part, dict):
            raise invalid(where, f"'{where}' must be an object.", code="invalid_type")
        if part.get("type") != "text":
            kind = part.get("type")
            raise unsupported(f"{where}.type", f"Content of type {kind!r} is not supported.")
        if not isinstance(part.get("text"), str):
            raise invalid(f"{where}.text", f"'{where}.text' must be a string.", code="invalid_type")
        texts.append(part["text"])
    return "\n".join(texts)


def _prompts(value: Any) -> list[str | list[int]]:
    if value is None:
        raise invalid("prompt", "'prompt' is required.", code="missing_required_parameter")
    if isinstance(value, str) or _is_tokens(value):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return list(value)
        if all(_is_tokens(each) for each in value):
            return list(value)
    raise invalid(
        "prompt", "'prompt' must be a string, token ids, or a list of either.", code="invalid_type"
    )


def _is_tokens(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    )


def _chat_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted = fields.boolean(body, "logprobs")
    alternatives = fields.integer(body, "top_logprobs", low=0, high=MAX_TOP_LOGPROBS)
    if alternatives is not None and not wanted:
        raise invalid("top_logprobs", "'top_logprobs' is only allowed with 'logprobs': true.")
    return (alternatives or 0) if wanted else None


def _sampling(
    body: Mapping[str, Any], defaults: Sampling, *, logprobs: int | None, is_chat: bool
) -> Sampling:
    def number(name: str, low: float, high: float) -> float:
        value = fields.number(body, name, low=low, high=high)
        default: float = getattr(defaults, name)
        return default if value is None else value

    top_k = fields.integer(body, "top_k", low=-1, high=1 << 20)
    top_p = number("top_p", 0, 1)
    repetition_penalty = number("repetition_penalty", 0, 10)
    if top_p == 0:
        raise invalid("top_p", "'top_p' must be above 0.")
    if repetition_penalty == 0:
        raise invalid("repetition_penalty", "'repetition_penalty' must be above 0.")
    return Sampling(
        temperature=number("temperature", 0, 2),
        top_p=top_p,
        top_k=defaults.top_k if top_k is None else max(top_k, 0),
        min_p=number("min_p", 0, 1),
        presence_penalty=number("presence_penalty", -2, 2),
        frequency_penalty=number("frequency_penalty", -2, 2),
        repetition_penalty=repetition_penalty,
        logit_bias=_logit_bias(body),
        seed=fields.integer(body, "seed", low=-(1 << 63), high=(1 << 63) - 1),
        stop=_stop(body.get("stop")),
        max_tokens=_max_tokens(body, is_chat=is_chat),
        ignore_eos=fields.boolean(body, "ignore_eos"),
        logprobs=logprobs,
    )


def _max_tokens(body: Mapping[str, Any], *, is_chat: bool) -> int | None:
    limit = fields.integer(body, "max_tokens", low=1, high=1 << 31)
    if not is_chat:
        return 16 if limit is None else limit  # OpenAI's default on this route
    newer = fields.integer(body, "max_completion_tokens", low=1, high=1 << 31)
    return limit if newer is None else newer


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise invalid("stop", "'stop' must be a string or a list of strings.", code="invalid_type")
    if len(stops) > MAX_STOPS or "" in stops:
        raise invalid("stop", f"'stop' takes up to {MAX_STOPS} strings that are not empty.")
    return tuple(stops)


def _logit_bias(body: Mapping[str, Any]) -> dict[int, float]:
    bias: dict[int, float] = {}
    values = fields.mapping(body, "logit_bias")
    for token in values:
        if not (token.isascii() and token.isdigit()):
            raise invalid("logit_bias", f"'logit_bias' has {token!r}, which is no token id.")
        try:
            value = fields.number(values, token, low=-100, high=100)
        except ApiError as error:
            raise invalid("logit_bias", f"'logit_bias': {error.message}") from None
        bias[int(token)] = value or 0.0
    return bias
