"""An engine without weights: the same routes, refusals and streams, and made-up words.

`python -m engines.fake SPEC_FILE`. Deployments, gateways and simulated pools are tested with it;
its answers carry the fingerprint "fake". From the spec's environment:

FAKE_TOKENS         how many words an answer has (16), if max_tokens allows
FAKE_TEXT           the answer itself, instead of made-up words
FAKE_DELAY_SECONDS  between two tokens (0)
FAKE_START_SECONDS  until it is ready (0)
FAKE_FAIL           any text: it ends at start with that reason
FAKE_BREAK_AFTER    how many requests it answers; all later ones get a 500
"""

import asyncio
import hashlib
import json
import math
import re
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from engines import process
from engines.adapters import Adapters
from engines.backend import Counts, Delta, Generation, Status
from engines.host import ServeSpec
from engines.protocol.dialect import find_dialect
from engines.protocol.embeddings import EmbeddingRequest
from engines.protocol.errors import (
    ApiError,
    context_length_exceeded,
    unavailable,
    unsupported,
)
from engines.protocol.requests import Request, Sampling
from engines.protocol.responses import TokenLogprob

WORDS = ("order", "parcel", "city", "today", "refund", "paid", "late", "box", "street", "north")
TEMPLATE = "<think></think><tool_call>enable_thinking"  # what its dialect is found from
VECTOR_NUMBERS = 32
TOKEN = re.compile(r"\s*\S+")  # a word with the space before it


@dataclass(frozen=True)
class Settings:
    tokens: int = 16
    text: str | None = None
    delay_seconds: float = 0.0
    start_seconds: float = 0.0
    failure: str = ""
    break_after: int | None = None

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        try:
            return cls(
                tokens=int(environment.get("FAKE_TOKENS", "16")),
                text=environment.get("FAKE_TEXT"),
                delay_seconds=float(environment.get("FAKE_DELAY_SECONDS", "0")),
                start_seconds=float(environment.get("FAKE_START_SECONDS", "0")),
                failure=environment.get("FAKE_FAIL", ""),
                break_after=int(broken)
                if (broken := environment.get("FAKE_BREAK_AFTER"))
                else None,
            )
        except ValueError as error:
            raise process.CannotServe("bad_environment", f"FAKE_*: {error}") from None


class FakeBackend:
    """Answers from nothing; the same request always gets the same words."""

    fingerprint = "fake"

    def __init__(self, spec: ServeSpec) -> None:
        self._spec = spec
        self._settings = Settings.read(spec.environment)
        self._slots = asyncio.Semaphore(spec.max_concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self.adapters: Adapters[str] = Adapters(
            base=spec.served_model_name,
            folders=spec.adapter_folders,
            most=spec.max_adapters,
            most_waiting=spec.max_waiting,
            read=_read_adapter,
        )
        self.sampling_defaults = Sampling()
        self.dialect = find_dialect(
            TEMPLATE, tools=spec.tool_parser, reasoning=spec.reasoning_parser
        )
        self.max_context_tokens = spec.max_context_tokens
        self.status = Status.LOADING
        self.answered = 0
        self.running = 0
        self.waiting = 0
        self.counts = Counts()

    @property
    def models(self) -> dict[str, str | None]:
        return self.adapters.models

    @property
    def cache_used(self) -> float:
        return self.running / self._spec.max_concurrency

    async def run(self) -> None:
        if self._settings.failure:
            raise process.CannotServe("fake_failure", self._settings.failure)
        await asyncio.sleep(self._settings.start_seconds)
        self.status = Status.READY
        await asyncio.Event().wait()

    async def generate(self, request: Request) -> Generation:
        if self._settings.break_after is not None and self.answered >= self._settings.break_after:
            raise ApiError(500, "It is broken.", kind="server_error", code="fake_break")
        self.answered += 1
        full = self.running >= self._spec.max_concurrency
        if full and self.waiting >= self._spec.max_waiting:
            raise unavailable("The queue is full.", code="queue_full", retry_after_seconds=1)
        prompts = _prompts(request)
        longest = max(len(_tokens(prompt)) for prompt in prompts)
        if longest >= self.max_context_tokens:
            raise context_length_exceeded(
                param="messages" if request.is_chat else "prompt",
                limit=self.max_context_tokens,
                wanted=f"the prompt has {longest}",
            )
        use = None
        if request.model != self._spec.served_model_name:
            use = await self.adapters.use(request.model)
        tasks: list[asyncio.Task[None]] = []

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        generation = Generation(
            prompt_tokens=sum(len(_tokens(prompt)) for prompt in prompts),
            choices=len(prompts) * request.choices,
            cancel=cancel,
            close=use.close if use is not None else None,
        )
        for index in range(generation.choices):
            prompt = prompts[index // request.choices]
            room = self.max_context_tokens - len(_tokens(prompt))
            words, reason = self._answer(request, prompt, index, room)
            if request.echo:
                generation.feed(
                    Delta(index, text=prompt, logprobs=_prompt_logprobs(request, prompt))
                )
            tasks.append(
                asyncio.create_task(self._speak(generation, request, index, words, reason))
            )
            self._tasks.add(tasks[-1])
            tasks[-1].add_done_callback(self._tasks.discard)
        return generation

    async def embed(self, request: EmbeddingRequest) -> Generation:
        texts = [each if isinstance(each, str) else str(each) for each in request.inputs]
        generation = Generation(
            prompt_tokens=sum(len(_tokens(text)) for text in texts),
            choices=len(texts),
            cancel=lambda: None,
        )
        for index, text in enumerate(texts):
            generation.feed(Delta(index, vector=_vector(text), finish_reason="stop"))
        return generation

    def _answer(
        self, request: Request, prompt: str, index: int, room: int
    ) -> tuple[list[str], str]:
        wanted = self._settings.text or _formed(request)
        if wanted is None:
            sampling = request.sampling
            seed = f"{request.model}|{prompt}|{index % request.choices}|{sampling.seed}|{sampling.temperature}"
            wanted = " ".join(_words(seed, self._settings.tokens))
        wanted_tokens = request.sampling.max_tokens
        limit = room if wanted_tokens is None else min(wanted_tokens, room)
        words = _tokens(wanted)
        reason = "stop" if len(words) <= limit else "length"
        text = "".join(words[:limit])
        cuts = [at for stop in request.sampling.stop if (at := text.find(stop)) >= 0]
        return _tokens(text[: min(cuts)] if cuts else text), "stop" if cuts else reason

    async def _speak(
        self, generation: Generation, request: Request, index: int, words: list[str], reason: str
    ) -> None:
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            for word in words:
                await asyncio.sleep(self._settings.delay_seconds)
                generation.feed(
                    Delta(index, text=word, tokens=1, logprobs=_logprobs(request, word))
                )
            generation.feed(Delta(index, finish_reason=reason))
        finally:
            self.running -= 1
            self._slots.release()


def _read_adapter(folder: Path) -> str:
    """Whatever has a configuration passes for an adapter."""
    config = folder / "adapter_config.json"
    if not config.is_file():
        message = "There is no adapter here: its folder has no adapter_config.json."
        raise ApiError(404, message, param="lora_path", code="adapter_not_found")
    return config.read_text()


def _formed(request: Request) -> str | None:
    """The least answer of the form that was asked for; None where none was."""
    if request.tools and request.tools.forced:
        name = request.tools.forced[0]
        call = {"name": name, "arguments": _instance(request.tools.parameters[name])}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    if request.structure is None:
        return None
    if request.structure.kind == "regex":
        raise unsupported(request.structure.param, "The fake engine follows no expressions.")
    if request.structure.kind == "choice":
        return str(request.structure.value[0])
    return json.dumps(_instance(request.structure.value))


def _instance(schema: Any) -> Any:
    """Some value of a plain schema."""
    if not isinstance(schema, dict):
        return None
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {name: _instance(own) for name, own in schema.get("properties", {}).items()}
        case "array":
            return [_instance(schema.get("items"))] * int(schema.get("minItems", 0))
        case "string":
            return WORDS[0]
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return True
    return None


def _prompts(request: Request) -> list[str]:
    if request.is_chat:
        return ["\n".join(f"{each['role']}: {each['content']}" for each in request.messages)]
    return [
        each if isinstance(each, str) else " ".join(f"#{token}" for token in each)
        for each in request.prompts
    ]


def _vector(text: str) -> bytes:
    """A direction made up from the text."""
    digest = hashlib.blake2b(text.encode(), digest_size=VECTOR_NUMBERS).digest()
    numbers = [byte - 127.5 for byte in digest]
    length = math.sqrt(sum(each * each for each in numbers))
    return array("f", [each / length for each in numbers]).tobytes()


def _tokens(text: str) -> list[str]:
    return TOKEN.findall(text)


def _words(seed: str, count: int) -> Iterator[str]:
    for position in range(count):
        digest = hashlib.blake2b(f"{seed}|{position}".encode(), digest_size=4).digest()
        yield WORDS[int.from_bytes(digest) % len(WORDS)]


def _logprobs(request: Request, word: str) -> tuple[TokenLogprob, ...]:
    if request.sampling.logprobs is None:
        return ()
    certain = TokenLogprob(word.encode(), 0.0)
    alternatives = (certain,) if request.sampling.logprobs else ()
    return (TokenLogprob(certain.raw, 0.0, alternatives),)


def _prompt_logprobs(request: Request, prompt: str) -> tuple[TokenLogprob, ...]:
    """The first token has none, as nothing is before it."""
    found = [each for word in _tokens(prompt) for each in _logprobs(request, word)]
    return tuple(
        TokenLogprob(each.raw, None) if not place else each for place, each in enumerate(found)
    )


if __name__ == "__main__":
    process.end(process.main(sys.argv[1:], FakeBackend))
