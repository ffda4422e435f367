"""A load generator of next to no cost: N connections, each asking again once it is answered.

`python -m benchmarks.load '{"port":..,"connections":..,"seconds":..,"stream":..,"secret":..}'`
prints one JSON object: requests, failures, seconds, latencies in milliseconds, events of streams.
"""

import asyncio
import json
import re
import sys
import time

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def build_request(*, secret: str, stream: bool) -> bytes:
    body: dict[str, object] = {
        "model": "bench",
        "messages": [{"role": "user", "content": "Where is my order 81723? " * 4}],
        "max_tokens": 64,
    }
    if stream:
        body["stream"] = True
    raw = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {secret}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


class Client(asyncio.Protocol):
    """One connection. Stops asking once `deadline` has passed, and never in the middle."""

    def __init__(self, request: bytes, *, stream: bool, deadline: float) -> None:
        self.request = request
        self.stream = stream
        self.deadline = deadline
        self.latencies: list[float] = []
        self.first: list[float] = []
        self.events = 0
        self.failures = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.ask()

    def ask(self) -> None:
        self.began = time.perf_counter()
        self.buffer = b""
        self.tail = b""
        self.has_head = False
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.has_head:
            self.take_stream(data)
            return
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        if not self.buffer.startswith(b"HTTP/1.1 200"):
            self.failures += 1
            self.transport.close()
        elif self.stream:
            self.has_head = True
            self.is_first = True
            rest, self.buffer = self.buffer[end + 4 :], b""
            if rest:
                self.take_stream(rest)
        else:
            found = LENGTH.search(self.buffer, 0, end)
            if len(self.buffer) >= end + 4 + (int(found[1]) if found else 0):
                self.answered()

    def take_stream(self, data: bytes) -> None:
        if self.is_first:
            self.is_first = False
            self.first.append(time.perf_counter() - self.began)
        self.events += data.count(b"data: ")
        self.tail = (self.tail + data)[-5:]
        if self.tail == b"0\r\n\r\n":
            self.answered()

    def answered(self) -> None:
        now = time.perf_counter()
        self.latencies.append(now - self.began)
        if now > self.deadline:
            self.transport.close()
        else:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if time.perf_counter() <= self.deadline:
            self.failures += 1
        if not self.done.done():
            self.done.set_result(None)


def share(values: list[float], part: float) -> float | None:
    """The value that `part` of the values do not exceed, in milliseconds."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000, 4)


async def run(options: dict) -> dict:
    request = build_request(secret=options["secret"], stream=options["stream"])
    began = time.perf_counter()
    deadline = began + options["seconds"]
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(options["connections"]):
        _, client = await loop.create_connection(
            lambda: Client(request, stream=options["stream"], deadline=deadline),
            "127.0.0.1",
            options["port"],
        )
        clients.append(client)
    await asyncio.wait_for(
        asyncio.gather(*(client.done for client in clients)), options["seconds"] + 30
    )
    latencies = [each for client in clients for each in client.latencies]
    first = [each for client in clients for each in client.first]
    return {
        "requests": len(latencies),
        "failures": sum(client.failures for client in clients),
        "seconds": time.perf_counter() - began,
        "p50_ms": share(latencies, 0.5),
        "p99_ms": share(latencies, 0.99),
        "first_chunk_p50_ms": share(first, 0.5),
        "first_chunk_p99_ms": share(first, 0.99),
        "events": sum(client.events for client in clients),
    }


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(run(json.loads(sys.argv[1])))))
