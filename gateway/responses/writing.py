"""A chat completion as it comes, told as a response: whole, or as the events of its stream."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

import orjson

from gateway.answers import Headers, Message, Send
from gateway.responses.reading import Item, own_param

Keep = Callable[[dict[str, Any]], Awaitable[bool]]

TEXTS = {"message": "output_text", "reasoning": "reasoning_text"}


def new_id(kind: str) -> str:
    return f"{kind}_{uuid4().hex}"


class Writer:
    """An ASGI `send` between a transfer and the client. `keep` is called with the whole response
    before the client is told that it is complete."""

    def __init__(
        self, send: Send, asked: Mapping[str, Any], *, is_stream: bool, keep: Keep
    ) -> None:
        self._send = send
        self._is_stream = is_stream
        self._keep = keep
        self._head = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "background": False,
            "service_tier": "default",
            **asked,
        }
        self._status, self._headers = 200, Headers()
        self._held = b""
        self._output: list[Item] = []
        self._calls: dict[int, Item] = {}
        self._open: Item | None = None
        self._usage: dict[str, Any] | None = None
        self._reason = ""
        self._number = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [each for each in message["headers"] if each[0] != b"content-length"]
            if self._streams:
                await self._send({**message, "headers": self._headers})
                begun = self._response("in_progress")
                await self._tell(
                    self._event("response.created", response=begun)
                    + self._event("response.in_progress", response=begun)
                )
            return
        self._held += message.get("body", b"")
        is_last = not message.get("more_body")
        if self._streams:
            await self._advance(is_last=is_last)
        elif is_last:
            await self._finish_whole()

    @property
    def _streams(self) -> bool:
        return self._is_stream and self._status == 200

    async def _advance(self, *, is_last: bool) -> None:
        *parts, self._held = self._held.split(b"\n\n")
        told = b"".join([self._take(part) for part in parts if part.startswith(b"data: {")])
        if told:
            await self._tell(told)
        if is_last:
            told = self._close()
            done = self._response(self._ended())
            done["store"] = await self._keep(done)
            told += self._event(f"response.{done['status']}", response=done)
            await self._send({"type": "http.response.body", "body": told})

    async def _finish_whole(self) -> None:
        body = orjson.loads(self._held)
        if self._status == 200:
            self._gather(body)
            body = self._response(self._ended())
            body["store"] = await self._keep(body)
        elif isinstance(body.get("error"), dict) and isinstance(body["error"].get("param"), str):
            body["error"]["param"] = own_param(body["error"]["param"])
        raw = orjson.dumps(body)
        headers = [*self._headers, (b"content-length", b"%d" % len(raw))]
        start = {"type": "http.response.start", "status": self._status, "headers": headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": raw})

    def _gather(self, body: Mapping[str, Any]) -> None:
        choice = body["choices"][0]
        self._usage, self._reason = body.get("usage"), choice.get("finish_reason") or ""
        self._deltas(choice["message"])
        for index, call in enumerate(choice["message"].get("tool_calls") or ()):
            self._call({"index": index, **call})
        self._close()

    def _take(self, part: bytes) -> bytes:
        """The events of one chunk."""
        chunk = orjson.loads(part[6:])
        if "error" in chunk:
            error = chunk["error"]
            said = {name: error.get(name) for name in ("code", "message", "param")}
            return self._event("error", **said)
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        told = b""
        for choice in chunk["choices"]:
            told += self._deltas(choice["delta"])
            for call in choice["delta"].get("tool_calls") or ():
                told += self._call(call)
            self._reason = choice.get("finish_reason") or self._reason
        return told

    def _deltas(self, delta: Mapping[str, Any]) -> bytes:
        told = b""
        if thought := delta.get("reasoning"):
            told += self._add("reasoning", thought)
        if said := delta.get("content"):
            told += self._add("message", said)
        return told

    def _add(self, kind: str, text: str) -> bytes:
        told = b""
        item = self._open
        if item is None or item["type"] != kind:
            told = self._close()
            part: dict[str, Any] = {"type": TEXTS[kind], "text": ""}
            if kind == "message":
                item = {"id": new_id("msg"), "type": kind, "role": "assistant", "content": []}
                part |= {"annotations": [], "logprobs": []}
            else:
                item = {"id": new_id("rs"), "type": kind, "summary": [], "content": []}
            told += self._begin(item)
            told += self._event("response.content_part.added", **self._place(), part=part)
            item["content"] = [part]
        item["content"][0]["text"] += text
        extra: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        name = f"response.{TEXTS[kind]}.delta"
        return told + self._event(name, **self._place(), delta=text, **extra)

    def _call(self, call: Mapping[str, Any]) -> bytes:
        function, told = call.get("function") or {}, b""
        item = self._calls.get(call["index"])
        if item is None:
            told = self._close()
            item = {
                "id": new_id("fc"),
                "type": "function_call",
                "call_id": call.get("id") or new_id("call"),
                "name": function.get("name") or "",
                "arguments": "",
            }
            self._calls[call["index"]] = item
            told += self._begin(item)
        if arguments := function.get("arguments"):
            item["arguments"] += arguments
            place = {"item_id": item["id"], "output_index": self._output.index(item)}
            name = "response.function_call_arguments.delta"
            told += self._event(name, **place, delta=arguments)
        return told

    def _begin(self, item: Item) -> bytes:
        item["status"] = "in_progress"
        self._open = item
        self._output.append(item)
        index = len(self._output) - 1
        return self._event("response.output_item.added", output_index=index, item=item)

    def _close(self) -> bytes:
        """The events that end the item being written, if any."""
        item, told = self._open, b""
        if item is None:
            return told
        item["status"] = "incomplete" if self._reason == "length" else "completed"
        index = len(self._output) - 1
        if item["type"] == "function_call":
            place = {"item_id": item["id"], "output_index": index}
            done = {"arguments": item["arguments"], "name": item["name"]}
            told = self._event("response.function_call_arguments.done", **place, **done)
        else:
            part = item["content"][0]
            extra: dict[str, Any] = {"logprobs": []} if item["type"] == "message" else {}
            name = f"response.{part['type']}.done"
            told = self._event(name, **self._place(), text=part["text"], **extra)
            told += self._event("response.content_part.done", **self._place(), part=part)
        told += self._event("response.output_item.done", output_index=index, item=item)
        self._open = None
        return told

    def _place(self) -> dict[str, Any]:
        index = len(self._output) - 1
        return {"item_id": self._output[index]["id"], "output_index": index, "content_index": 0}

    def _ended(self) -> str:
        return "incomplete" if self._reason in ("length", "content_filter") else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        incomplete = {"reason": reasons[self._reason]} if status == "incomplete" else None
        return {
            **self._head,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": incomplete,
            "output": self._output,
            "usage": _usage(self._usage),
        }

    def _event(self, kind: str, **values: Any) -> bytes:
        if not self._is_stream:
            return b""
        body = {"type": kind, "sequence_number": self._number, **values}
        self._number += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(body))

    async def _tell(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage["total_tokens"],
    }
