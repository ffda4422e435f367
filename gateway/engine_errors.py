"""What an engine says when it does not answer."""

import orjson

from engines.protocol.errors import ApiError
from gateway import errors, upstream

MOST_ERROR_BYTES = 1 << 20


async def read_error(exchange: upstream.Exchange, first: bytes) -> ApiError:
    """An engine's own refusal (busy, loading, draining) in its words; a breakdown in ours."""
    body, data = first, first
    try:
        while data and len(body) < MOST_ERROR_BYTES:
            data = await exchange.read()
            body += data
        told = orjson.loads(body)["error"]
        message, code = str(told["message"]), str(told["code"])
    except (upstream.UpstreamError, orjson.JSONDecodeError, KeyError, TypeError):
        message, code = "The engine is not ready.", "engine_unavailable"
    if exchange.status == 503:
        return errors.unavailable(message, code=code)
    return errors.bad_answer("The engine failed on this request.")
