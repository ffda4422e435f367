"""An engine that costs next to nothing: fixed answers, written by hand on asyncio.

`python -m benchmarks.mock_engine PORT [SECONDS_BETWEEN_EVENTS]`. A request with "stream":true gets
64 tokens as 68 events and a usage chunk, any other a body of about 1 kB with a usage block.
"""

import asyncio
import json
import re
import sys

TOKENS = 64
EVENTS = TOKENS + 4  # role, tokens, finish, usage, [DONE]
LENGTH = re.compile(rb"content-length: (\d+)")
USAGE = {"prompt_tokens": 12, "completion_tokens": TOKENS, "total_tokens": 12 + TOKENS}
HEAD = {
    "id": "chatcmpl-1",
    "created": 1_700_000_000,
    "model": "bench",
    "system_fingerprint": "mock",
}


def whole() -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "word " * 130},
        "finish_reason": "stop",
    }
    body = HEAD | {"object": "chat.completion", "choices": [choice], "usage": USAGE}
    raw = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


def chunks() -> list[bytes]:
    def event(choices: list[dict], **more: object) -> bytes:
        body = HEAD | {"object": "chat.completion.chunk", "choices": choices} | more
        return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"

    def choice(delta: dict, reason: str | None = None) -> list[dict]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    events = [event(choice({"role": "assistant", "content": ""}))]
    events += [event(choice({"content": f" token{number}"})) for number in range(TOKENS)]
    events += [event(choice({}, "stop")), event([], usage=USAGE), b"data: [DONE]\n\n"]
    return [b"%x\r\n%b\r\n" % (len(each), each) for each in events]


WHOLE = whole()
CHUNKS = chunks()
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Engine(asyncio.Protocol):
    """One connection: a request at a time, none checked."""

    delay_seconds = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(self.buffer, 0, end)
            total = end + 4 + (int(found[1]) if found else 0)
            if len(self.buffer) < total:
                return
            request, self.buffer = self.buffer[:total], self.buffer[total:]
            self.answer(b'"stream":true' in request)

    def answer(self, is_stream: bool) -> None:
        if not is_stream:
            self.transport.write(WHOLE)
        elif not self.delay_seconds:
            self.transport.write(STREAM_HEAD)
            for chunk in CHUNKS:
                self.transport.write(chunk)
            self.transport.write(b"0\r\n\r\n")
        else:
            self.transport.write(STREAM_HEAD)
            self.tick(0)

    def tick(self, number: int) -> None:
        if self.transport.is_closing():
            return
        if number < len(CHUNKS):
            self.transport.write(CHUNKS[number])
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay_seconds, self.tick, number + 1)
        else:
            self.transport.write(b"0\r\n\r\n")


async def serve(port: int, delay_seconds: float) -> None:
    Engine.delay_seconds = delay_seconds
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
