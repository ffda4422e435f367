"""Answers of the gateway's own making, over ASGI."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from engines.protocol.errors import ApiError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


async def send_json(
    send: Send, status: int, body: object, *, request_id: str, headers: Headers | None = None
) -> None:
    """One whole JSON answer."""
    raw = orjson.dumps(body)
    start = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(raw)),
        (b"x-request-id", request_id.encode()),
        *(headers or ()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": raw})


async def send_error(send: Send, error: ApiError, *, request_id: str) -> None:
    """A refusal, with `Retry-After` where coming back makes sense."""
    headers: Headers = list(error.headers)
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_seconds))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 413:  # the rest of the body is still on its way
        headers.append((b"connection", b"close"))
    await send_json(send, error.status, error.body(), request_id=request_id, headers=headers)
