"""Bodies of requests, read within a bound."""

from gateway import errors
from gateway.answers import Receive


class HungUp(Exception):
    """The client left before it had said what it wants."""


async def read_body(length: bytes, receive: Receive, *, limit_bytes: int) -> bytes:
    """`length` is what the client declares, if anything."""
    if length.isdigit() and int(length) > limit_bytes:
        raise errors.too_large(limit_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HungUp
        body: bytes = message.get("body", b"")
        size += len(body)
        if size > limit_bytes:
            raise errors.too_large(limit_bytes)
        if not message.get("more_body"):
            return b"".join((*parts, body)) if parts else body
        parts.append(body)
