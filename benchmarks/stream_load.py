"""Closed-loop streaming load at next to no cost: N clients, each asking a number of times.

`python -m benchmarks.stream_load '{"port":..,"model":..,"clients":..,"times":..,"prompt":..}'`
prints one JSON object. Each prompt begins with a number of its own, so that no cache of prefixes
answers it. Tokens are counted by the engine's usage where it tells one, else by its events.
"""

import asyncio
import functools
import json
import re
import statistics
import sys
import time
from typing import Any

COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')
PROMPT_TOKENS = re.compile(rb'"prompt_tokens": ?(\d+)')
END = b"\r\n0\r\n\r\n"  # of a chunked body; not every server says [DONE] before it


class Client(asyncio.Protocol):
    def __init__(self, options: dict[str, Any], number: int) -> None:
        self.options = options
        self.number = number
        self.asked = 0
        self.tokens = 0
        self.prompt_tokens = 0
        self.first: list[float] = []
        self.between: list[float] = []
        self.failure = ""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.ask()

    def ask(self) -> None:
        options = self.options
        nonce = f"{options['seed']}{self.number:03d}{self.asked:03d}"
        body = {
            "model": options["model"],
            "messages": [{"role": "user", "content": f"{nonce} {options['prompt']}"}],
            "max_tokens": options["tokens"],
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | options.get("extra", {})
        raw = json.dumps(body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\n"
            f"authorization: Bearer {options['token']}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        )
        self.asked += 1
        self.began = time.perf_counter()
        self.events = 0
        self.tail = b""
        self.transport.write(head.encode() + raw)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.tail and not data.startswith(b"HTTP/1.1 200"):
            self.failure = data.decode(errors="replace")[:600]
            self.transport.close()
            return
        pieces = data.count(b'"content"')
        if pieces:
            if not self.events:
                self.first_at = now
                self.first.append(now - self.began)
            self.events += pieces
            self.last_at = now
        self.tail = (self.tail + data)[-4096:]
        if self.tail.endswith(END):
            self.answered()

    def answered(self) -> None:
        told = COMPLETION_TOKENS.findall(self.tail)
        tokens = int(told[-1]) if told else self.events
        prompt = PROMPT_TOKENS.findall(self.tail)
        self.prompt_tokens = int(prompt[-1]) if prompt else 0
        self.tokens += tokens
        if tokens > 1 and self.events:
            self.between.append((self.last_at - self.first_at) / (tokens - 1))
        if self.asked >= self.options["times"]:
            self.transport.close()
        else:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def run(options: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    began_at, began = time.time(), time.perf_counter()
    clients = []
    for number in range(options["clients"]):
        _, client = await loop.create_connection(
            functools.partial(Client, options, number), "127.0.0.1", options["port"]
        )
        clients.append(client)
    await asyncio.wait_for(asyncio.gather(*(each.done for each in clients)), options["limit"])
    seconds = time.perf_counter() - began
    first = sorted(each for client in clients for each in client.first)
    between = [each for client in clients for each in client.between]
    failures = [client.failure for client in clients if client.failure]
    tokens = sum(client.tokens for client in clients)
    return {
        "began_at": began_at,
        "clients": len(clients),
        "requests": sum(client.asked for client in clients),
        "failure": failures[0] if failures else "",
        "prompt_tokens": max(client.prompt_tokens for client in clients),
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "first_token_p50_ms": statistics.median(first) * 1e3 if first else None,
        "first_token_p95_ms": first[int(len(first) * 0.95)] * 1e3 if first else None,
        "between_tokens_p50_ms": statistics.median(between) * 1e3 if between else None,
    }


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(run(json.loads(sys.argv[1])))))
