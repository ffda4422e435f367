"""What clients ask for: JSON bodies of the completion routes, read into checked values.

Fields that would change the answer and are not honoured are refused by name, so that no client
believes it got what it asked for. A field that is null, false or empty asks for nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.protocol import fields
from engines.protocol.errors import ApiError, invalid, no_such_model, unsupported
from engines.protocol.messages import read_messages
from engines.protocol.structure import Structure, read_structure
from engines.protocol.tools import Tools, read_tools

MAX_CHOICES = 128
MAX_STOPS = 16  # OpenAI allows 4; agents' frameworks send more
MAX_STOP_LENGTH = 512
MAX_STOP_TOKENS = 64
MAX_TOP_LOGPROBS = 20
MAX_PROMPTS = 256

# Fields that say something about the client or the service, not about the answer.
REMARKS = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "request_id", "spaces_between_special_tokens",
)  # fmt: skip
HONOURED = (
    "model", "priority", "stream", "stream_options", "n", "temperature", "top_p", "top_k", "min_p",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "seed", "stop",
    "stop_token_ids", "include_stop_str_in_output", "max_tokens", "min_tokens", "ignore_eos",
    "logprobs", "skip_special_tokens", "response_format", "structured_outputs", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "guided_json_object",
)  # fmt: skip
CHAT_FIELDS = frozenset((
    *REMARKS, *HONOURED, "messages", "max_completion_tokens", "top_logprobs", "tools",
    "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "reasoning_effort",
    "include_reasoning", "modalities", "add_generation_prompt",
))  # fmt: skip
COMPLETION_FIELDS = frozenset((*REMARKS, *HONOURED, "prompt", "best_of", "echo"))
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


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
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False  # the stop string that was met is part of the answer
    min_tokens: int = 0  # before which no token that ends the answer is chosen
    ignore_eos: bool = False
    logprobs: int | None = None  # None: not wanted; else how many alternatives a token


@dataclass(frozen=True, kw_only=True)
class Request:
    """One checked request. A chat has `messages`; a completion has `prompts`, text or token ids."""

    is_chat: bool
    model: str  # the name asked for: the base's or one of its adapters'
    priority: int = 0  # lower is sooner; among equals, first come first served
    messages: Sequence[dict[str, Any]] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    tools: Tools | None = None
    include_reasoning: bool = True
    prompts: Sequence[str | list[int]] = ()
    echo: bool = False  # a completion repeats its prompt first
    prompt_logprobs: int | None = None  # None: not wanted; else how many alternatives a token
    structure: Structure | None = None
    sampling: Sampling
    choices: int = 1  # for each prompt
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False  # with every chunk


def read_chat(body: Any, *, models: Collection[str], defaults: Sampling) -> Request:
    """A body of POST /v1/chat/completions. Raises ApiError naming the field at fault."""
    body = read_model(body, models)
    check_known(body, CHAT_FIELDS)
    if body.get("modalities") not in (None, ["text"]):
        raise unsupported("modalities", 'Only ["text"] is supported.')
    if body.get("add_generation_prompt") is False:
        raise unsupported("add_generation_prompt", "A chat is always answered by the assistant.")
    return Request(
        is_chat=True,
        model=body["model"],
        priority=read_priority(body),
        messages=read_messages(body.get("messages")),
        template_arguments=_effort(body) | fields.mapping(body, "chat_template_kwargs"),
        tools=read_tools(body),
        include_reasoning=body.get("include_reasoning") is None
        or fields.boolean(body, "include_reasoning"),
        structure=read_structure(body),
        sampling=_sampling(body, defaults, logprobs=_chat_logprobs(body), is_chat=True),
        choices=fields.integer(body, "n", low=1, high=MAX_CHOICES) or 1,
        **_stream(body),
    )


def read_completion(body: Any, *, models: Collection[str], defaults: Sampling) -> Request:
    """A body of POST /v1/completions. Raises ApiError naming the field at fault."""
    body = read_model(body, models)
    check_known(body, COMPLETION_FIELDS)
    choices = fields.integer(body, "n", low=1, high=MAX_CHOICES) or 1
    if body.get("best_of") not in (None, choices):
        raise unsupported("best_of", "best_of is not supported beyond n.")
    logprobs = fields.integer(body, "logprobs", low=0, high=MAX_TOP_LOGPROBS)
    echo = fields.boolean(body, "echo")
    prompts = read_texts(body, "prompt")
    if len(prompts) * choices > MAX_PROMPTS:
        raise invalid("prompt", f"Prompts times n must be at most {MAX_PROMPTS}.")
    return Request(
        is_chat=False,
        model=body["model"],
        priority=read_priority(body),
        prompts=prompts,
        echo=echo,
        prompt_logprobs=logprobs if echo else None,
        structure=read_structure(body),
        sampling=_sampling(body, defaults, logprobs=logprobs, is_chat=False),
        choices=choices,
        **_stream(body),
    )


def read_model(body: Any, models: Collection[str]) -> dict[str, Any]:
    """The body, once it is an object that asks for a model there is."""
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type")
    model = fields.text(body, "model")
    if model is None:
        raise invalid("model", "'model' is required.", code="missing_required_parameter")
    if model not in models:
        raise no_such_model(model)
    return body


def check_known(body: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses fields that ask for something nobody here knows."""
    for name, value in body.items():
        if name not in known and value not in (None, False, [], {}, ""):
            raise unsupported(name, f"'{name}' is not supported by this model's engine.")
    if body.get("skip_special_tokens") is False:
        raise unsupported("skip_special_tokens", "Special tokens never show in answers.")


def read_priority(body: Mapping[str, Any]) -> int:
    return fields.integer(body, "priority", low=-(1 << 31), high=(1 << 31) - 1) or 0


def _effort(body: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's switch in the words of Qwen's templates; those without it take no notice."""
    effort = fields.text(body, "reasoning_effort")
    if effort is None:
        return {}
    if effort not in EFFORTS:
        raise invalid("reasoning_effort", f"'reasoning_effort' must be one of {list(EFFORTS)}.")
    return {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}


def _stream(body: Mapping[str, Any]) -> dict[str, Any]:
    stream = fields.boolean(body, "stream")
    options = fields.mapping(body, "stream_options")
    if options and not stream:
        raise invalid("stream_options", "'stream_options' is only allowed with 'stream': true.")
    usage = fields.boolean(options, "include_usage", prefix="stream_options.")
    each = fields.boolean(options, "continuous_usage_stats", prefix="stream_options.")
    return {"stream": stream, "include_usage": usage, "continuous_usage": usage and each}


def read_texts(body: Mapping[str, Any], name: str) -> list[str | list[int]]:
    """A text, some token ids, or several of either."""
    value = body.get(name)
    if value is None:
        raise invalid(name, f"'{name}' is required.", code="missing_required_parameter")
    if isinstance(value, str) or _is_tokens(value):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return list(value)
        if all(_is_tokens(each) for each in value):
            return list(value)
    raise invalid(
        name, f"'{name}' must be a string, token ids, or a list of either.", code="invalid_type"
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
    max_tokens = _max_tokens(body, is_chat=is_chat)
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
        stop_token_ids=fields.integers(
            body, "stop_token_ids", low=0, high=(1 << 31) - 1, most=MAX_STOP_TOKENS
        ),
        include_stop=fields.boolean(body, "include_stop_str_in_output"),
        min_tokens=_min_tokens(body, max_tokens),
        max_tokens=max_tokens,
        ignore_eos=fields.boolean(body, "ignore_eos"),
        logprobs=logprobs,
    )


def _max_tokens(body: Mapping[str, Any], *, is_chat: bool) -> int | None:
    least = 0 if body.get("echo") is True and not is_chat else 1  # an echo alone is an answer
    limit = fields.integer(body, "max_tokens", low=least, high=1 << 31)
    if not is_chat:
        return 16 if limit is None else limit  # OpenAI's default on this route
    newer = fields.integer(body, "max_completion_tokens", low=1, high=1 << 31)
    return limit if newer is None else newer


def _min_tokens(body: Mapping[str, Any], max_tokens: int | None) -> int:
    least = fields.integer(body, "min_tokens", low=0, high=1 << 31) or 0
    if max_tokens is not None and least > max_tokens:
        raise invalid("min_tokens", f"'min_tokens' must be at most {max_tokens}, the limit.")
    return least


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise invalid("stop", "'stop' must be a string or a list of strings.", code="invalid_type")
    if len(stops) > MAX_STOPS or "" in stops:
        raise invalid("stop", f"'stop' takes up to {MAX_STOPS} strings that are not empty.")
    if any(len(each) > MAX_STOP_LENGTH for each in stops):
        raise invalid("stop", f"'stop' takes strings of at most {MAX_STOP_LENGTH} characters.")
    return tuple(stops)


def _logit_bias(body: Mapping[str, Any]) -> dict[int, float]:
    bias: dict[int, float] = {}
    values = fields.mapping(body, "logit_bias")
    for token in values:
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise invalid("logit_bias", f"'logit_bias' has {token[:20]!r}, which is no token id.")
        try:
            value = fields.number(values, token, low=-100, high=100)
        except ApiError as error:
            raise invalid("logit_bias", f"'logit_bias': {error.message}") from None
        bias[int(token)] = value or 0.0
    return bias
