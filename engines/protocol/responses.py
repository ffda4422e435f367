"""What clients get back: bodies and stream chunks of the two completion routes."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.protocol.reading import Piece


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token as its bytes and the natural logarithm of its probability, which a prompt's first
    token has none of."""

    raw: bytes
    logprob: float | None
    alternatives: Sequence["TokenLogprob"] = ()

    @property
    def text(self) -> str:
        return self.raw.decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, found in the cache
    reasoning_tokens: int | None = None  # of the completion; None: this model does not think

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reasoning_tokens is not None:
            body["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return body


@dataclass(slots=True)
class Choice:
    """One answer, gathered whole."""

    pieces: list[Piece] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def text(self, kind: str) -> str:
        return "".join(piece.text for piece in self.pieces if piece.kind == kind)


class Shape:
    """The bodies of one answer: they share an id, a time, a model and a fingerprint."""

    def __init__(self, *, is_chat: bool, model: str, fingerprint: str, with_logprobs: bool) -> None:
        self.is_chat = is_chat
        self.with_logprobs = with_logprobs
        self.id = ("chatcmpl-" if is_chat else "cmpl-") + uuid.uuid4().hex
        self._head = {
            "id": self.id,
            "object": "",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._offsets: dict[int, int] = {}  # of each choice's text so far, for completions

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        kind = "chat.completion" if self.is_chat else "text_completion"
        bodies = [self._whole_choice(index, choice) for index, choice in enumerate(choices)]
        return self._head | {"object": kind, "choices": bodies, "usage": usage.body()}

    def role(self, index: int) -> dict[str, Any] | None:
        """The first chunk of a choice; completions have none."""
        if not self.is_chat:
            return None
        return self._chunk(
            {
                "index": index,
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
        )

    def part(
        self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob]
    ) -> dict[str, Any]:
        """A chunk with what a choice gained at once."""
        body: dict[str, Any] = {"index": index}
        if self.is_chat:
            body["delta"] = _told(pieces)
        else:
            body["text"] = "".join(piece.text for piece in pieces)
        body |= {"logprobs": self._logprobs(index, logprobs), "finish_reason": None}
        return self._chunk(body)

    def finish(self, index: int, reason: str) -> dict[str, Any]:
        """The last chunk of a choice."""
        body: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": reason}
        if self.is_chat:
            body["delta"] = {}
        else:
            body["text"] = ""
        return self._chunk(body)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The chunk after all choices, for those who asked."""
        return self._chunk(None) | {"usage": usage.body()}

    def _chunk(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return self._head | {"object": kind, "choices": [choice] if choice else []}

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        body: dict[str, Any] = {"index": index}
        if self.is_chat:
            told = _told(choice.pieces)
            for call in told.get("tool_calls", ()):
                del call["index"]
            if not told.keys() & {"tool_calls", "reasoning"}:
                told.setdefault("content", "")
            body["message"] = {"role": "assistant", "content": None, "refusal": None} | told
        else:
            body["text"] = choice.text("content")
        logprobs = self._logprobs(index, choice.logprobs)
        return body | {"logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        if self.is_chat:
            content = [
                _chat_token(each) | {"top_logprobs": [_chat_token(a) for a in each.alternatives]}
                for each in tokens
            ]
            return {"content": content, "refusal": None}
        offsets: list[int] = []
        for each in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(each.text)
        return {
            "tokens": [each.text for each in tokens],
            "token_logprobs": [each.logprob for each in tokens],
            "top_logprobs": [_by_text(each) for each in tokens],
            "text_offset": offsets,
        }


def _told(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Pieces as a message or a part of one.

    Reasoning goes under both names that clients of other engines look for: vLLM's newer
    `reasoning`, and `reasoning_content`, which was its older one and is everybody else's.
    """
    told: dict[str, Any] = {}
    for piece in pieces:
        match piece.kind:
            case "content":
                told["content"] = told.get("content", "") + piece.text
            case "reasoning":
                told["reasoning"] = told.get("reasoning", "") + piece.text
            case "call":
                function = {"name": piece.text, "arguments": ""}
                identity = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
                call = {"index": piece.call, **identity, "function": function}
                told.setdefault("tool_calls", []).append(call)
            case "arguments":
                calls = told.setdefault("tool_calls", [])
                if not calls or calls[-1]["index"] != piece.call:
                    calls.append({"index": piece.call, "function": {"arguments": ""}})
                calls[-1]["function"]["arguments"] += piece.text
    if "reasoning" in told:
        told["reasoning_content"] = told["reasoning"]
    return told


def _by_text(token: TokenLogprob) -> dict[str, float] | None:
    """The alternatives of a completion's token. Of several that read the same, such as halves of
    a character, the likeliest counts."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for each in token.alternatives:
        if each.logprob is not None:
            found.setdefault(each.text, each.logprob)
    return found


def _chat_token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}


def model_body(
    name: str, *, created: int, max_context_tokens: int, root: str, parent: str | None = None
) -> dict[str, Any]:
    """One entry of GET /v1/models. An adapter's `root` is the folder that it was loaded from, its
    `parent` the base that it belongs to."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "ai-factory",
        "root": root,
        "parent": parent,
        "max_model_len": max_context_tokens,
    }
