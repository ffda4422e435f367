"""How much of a request's body is taken in: Django writes all of it to disk before any view runs,
whoever sends it."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

FORM_BYTES = 2**20  # what a multipart body has besides its files


async def bounded(application: Application, scope: Message, receive: Receive, send: Send) -> None:
    """`application`, with a body of at most FACTORY_MAX_UPLOAD_BYTES for forms with files and
    DATA_UPLOAD_MAX_MEMORY_SIZE for all else. A longer one is answered with 413, at once if its
    length was declared."""
    headers = dict(scope["headers"])
    limit = _limit(headers.get(b"content-type", b""))
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        await _refuse(limit, send)
        return
    taken, is_over, has_begun = 0, False, False

    async def receive_bounded() -> Message:
        nonlocal taken, is_over
        message = await receive()
        taken += len(message.get("body", b""))
        is_over = is_over or taken > limit
        return {"type": "http.disconnect"} if is_over else message

    async def send_noted(message: Message) -> None:
        nonlocal has_begun
        has_begun = True
        await send(message)

    await application(scope, receive_bounded, send_noted)
    if is_over and not has_begun:
        await _refuse(limit, send)


def _limit(content_type: bytes) -> int:
    if content_type.lower().startswith(b"multipart/form-data"):
        return int(settings.FACTORY_MAX_UPLOAD_BYTES) + FORM_BYTES
    return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)


async def _refuse(limit: int, send: Send) -> None:
    error = {
        "code": "body_too_large",
        "type": "invalid_request_error",  # OpenAI's clients read this one, ours the remedy
        "param": None,
        "message": f"The body of this request may have {limit:,} bytes.",
        "remedy": "Send less at once; files go into a multipart form.",
    }
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
