"""Sending an evaluation's questions through the serving path, as any client would."""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from common.texts import storable

IN_FLIGHT = 16
TIMEOUT_SECONDS = 120.0
TRIES = 3  # of one question, where the fault may be passing
PAUSE_SECONDS = 0.5
REVISION_HEADER = "x-revision-id"  # the gateway says which revision answered
WAITED_FOR = frozenset({401, 404, 429, 503})  # about the model or the key, not the question
PASSING = frozenset({500, 502, 504})
MESSAGE_CHARACTERS = 500
LIKELIHOOD = {"echo": True, "logprobs": 0, "max_tokens": 0, "temperature": 0}


@dataclass(frozen=True)
class Question:
    """One line put to one model."""

    model_name: str
    line: int
    messages: tuple[dict[str, Any], ...]
    expected: str
    key: str = ""  # whatever the asker knows it by
    body: Mapping[str, Any] = field(default_factory=dict)  # more of the request, such as tools
    tokens: tuple[int, ...] = ()  # a text whose likelihood is asked, in place of messages


@dataclass(frozen=True)
class Reply:
    """What came back: text, or why there is none."""

    question: Question
    text: str = ""
    error: str = ""
    revision_id: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: tuple[float | None, ...] = ()  # of a question's tokens


@dataclass(frozen=True)
class Wait:
    """A model cannot answer now: the HTTP status (0: nobody there) and what was said."""

    status: int
    message: str


@dataclass
class Outcome:
    """Replies in the order they came; by model, why it was not asked any further."""

    replies: list[Reply] = field(default_factory=list)
    waits: dict[str, Wait] = field(default_factory=dict)


class _NotNow(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.wait = Wait(status, message)


class _Passing(Exception):
    """This question failed in a way that another try may cure."""


def ask(
    questions: Sequence[Question],
    *,
    base_url: str,
    secret: str,
    max_tokens: int,
    seconds: float,
) -> Outcome:
    """Put the questions, about 16 at a time, and begin none after `seconds`.

    A model that is not ready is not asked again in this call; its questions are left unanswered.
    """
    return asyncio.run(_ask(questions, base_url, secret, max_tokens, seconds))


def greet(model_name: str, *, base_url: str, secret: str) -> str | Wait:
    """The id of the revision that a model's name stands for now ("" if it is none of the registry);
    or why nobody answers."""
    body = {"model": model_name, "prompt": "Hello", "max_tokens": 1}
    try:
        response = httpx.post(
            f"{base_url}/v1/completions",
            json=body,
            headers={"Authorization": f"Bearer {secret}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        return Wait(0, f"The gateway cannot be reached: {error}")
    if response.status_code != 200:
        return Wait(response.status_code, _message(response))
    return str(response.headers.get(REVISION_HEADER, ""))


async def _ask(
    questions: Sequence[Question], base_url: str, secret: str, max_tokens: int, seconds: float
) -> Outcome:
    outcome = Outcome()
    left = iter(questions)
    until = time.monotonic() + seconds

    async def work(client: httpx.AsyncClient) -> None:
        for question in left:
            if time.monotonic() >= until:
                return
            if question.model_name in outcome.waits:
                continue
            try:
                outcome.replies.append(await _one(client, question, max_tokens))
            except _NotNow as refusal:
                outcome.waits.setdefault(question.model_name, refusal.wait)

    client = httpx.AsyncClient(
        base_url=base_url,
        headers={"Authorization": f"Bearer {secret}"},
        timeout=TIMEOUT_SECONDS,
        limits=httpx.Limits(max_connections=IN_FLIGHT),
        trust_env=False,  # a proxy for the outside world does not know this platform
    )
    async with client, asyncio.TaskGroup() as group:
        for _ in range(min(IN_FLIGHT, len(questions))):
            group.create_task(work(client))
    return outcome


async def _one(client: httpx.AsyncClient, question: Question, max_tokens: int) -> Reply:
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(PAUSE_SECONDS * attempt)
        try:
            return await _try(client, question, max_tokens)
        except _Passing as error:
            problem = str(error)
    return Reply(question, error=problem)


async def _try(client: httpx.AsyncClient, question: Question, max_tokens: int) -> Reply:
    body = {
        "model": question.model_name,
        "messages": list(question.messages),
        "temperature": 0,
        "seed": 0,
        "max_tokens": max_tokens,
        **question.body,
    }
    path = "/v1/chat/completions"
    if question.tokens:
        path = "/v1/completions"
        body = {"model": question.model_name, "prompt": question.tokens, **LIKELIHOOD}
    try:
        response = await client.post(path, json=body)
    except httpx.ConnectError as error:
        raise _NotNow(0, f"The gateway cannot be reached: {error}") from error
    except httpx.HTTPError as error:
        raise _Passing(f"{type(error).__name__}: {error}") from error
    if response.status_code in WAITED_FOR:
        raise _NotNow(response.status_code, _message(response))
    if response.status_code in PASSING:
        raise _Passing(_message(response))
    if response.status_code != 200:
        return Reply(question, error=_message(response))
    return _read(question, response)


def _read(question: Question, response: httpx.Response) -> Reply:
    try:
        answer = response.json()
        if question.tokens:
            logprobs = answer["choices"][0]["logprobs"]["token_logprobs"]
            return Reply(question, logprobs=tuple(logprobs[: len(question.tokens)]))
        text = told(answer["choices"][0]["message"])
        usage = answer.get("usage") or {}
        return Reply(
            question,
            text=storable(str(text)),
            revision_id=response.headers.get(REVISION_HEADER, ""),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        return Reply(question, error=f"The answer cannot be read: {error!r}")


def told(message: Mapping[str, Any]) -> str:
    """What an assistant's message says. One that calls tools is the calls as JSON, in order:
    [{"name": "...", "arguments": {...}}]; so they are compared by what they mean."""
    calls = message.get("tool_calls")
    if not calls:
        return str(message.get("content") or "")
    return json.dumps([_call(each["function"]) for each in calls], ensure_ascii=False)


def _call(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    return {"name": function.get("name"), "arguments": arguments}


def _message(response: httpx.Response) -> str:
    """OpenAI's error shape, or the beginning of whatever was said."""
    text = response.text
    try:
        body: Any = response.json()
        text = str(body["error"]["message"])
    except (ValueError, TypeError, LookupError):
        pass
    return f"{response.status_code}: {storable(text, limit=MESSAGE_CHARACTERS)}"
