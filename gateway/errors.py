"""Refusals of the gateway's own, in OpenAI's shape, so that official clients raise their own errors."""

from collections.abc import Iterable, Sequence

from engines.protocol.errors import ApiError

RETRY_SECONDS = 2

__all__ = [
    "ApiError",
    "bad_answer",
    "forbidden",
    "held_too_long",
    "invalid_body",
    "no_route",
    "no_such_model",
    "not_ready",
    "timed_out",
    "too_large",
    "too_many",
    "too_many_held",
    "unauthenticated",
    "unavailable",
    "wrong_method",
]


def unauthenticated(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


def forbidden(message: str, *, code: str, param: str | None = None) -> ApiError:
    return ApiError(403, message, kind="permission_error", code=code, param=param)


def invalid_body(message: str, *, code: str) -> ApiError:
    return ApiError(400, message, code=code)


def too_large(limit_bytes: int) -> ApiError:
    return ApiError(413, f"The body must be at most {limit_bytes} bytes.", code="request_too_large")


def no_such_model(name: str) -> ApiError:
    message = f"The model {name!r} does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def no_route(method: str, path: str) -> ApiError:
    return ApiError(404, f"Unknown request URL: {method} {path}.", code="unknown_url")


def wrong_method(method: str, path: str) -> ApiError:
    return ApiError(405, f"{path} does not take {method}.", code="method_not_allowed")


def too_many(
    message: str,
    *,
    code: str,
    retry_after_seconds: int,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> ApiError:
    return ApiError(
        429,
        message,
        kind="rate_limit_error",
        code=code,
        retry_after_seconds=retry_after_seconds,
        headers=headers,
    )


def not_ready(name: str, *, reasons: Iterable[str] = ()) -> ApiError:
    """The model exists and no replica of it can answer now."""
    why = " ".join(sorted({reason for reason in reasons if reason}))
    message = f"No replica of the model {name!r} is ready. Try again in a moment. {why}"
    return unavailable(message.strip(), code="model_not_ready")


def too_many_held(name: str, *, retry_after_seconds: int) -> ApiError:
    message = f"Too many requests wait for a replica of the model {name!r} already."
    return unavailable(message, code="hold_queue_full", retry_after_seconds=retry_after_seconds)


def held_too_long(name: str, *, seconds: float, why: str, retry_after_seconds: int) -> ApiError:
    message = f"No replica of the model {name!r} was ready within {seconds:.0f} s. {why}".strip()
    return unavailable(message, code="hold_timed_out", retry_after_seconds=retry_after_seconds)


def unavailable(message: str, *, code: str, retry_after_seconds: int = RETRY_SECONDS) -> ApiError:
    return ApiError(
        503, message, kind="server_error", code=code, retry_after_seconds=retry_after_seconds
    )


def bad_answer(message: str) -> ApiError:
    """An engine broke, or ended the connection, before it had answered."""
    return ApiError(
        502, message, kind="server_error", code="engine_failed", retry_after_seconds=RETRY_SECONDS
    )


def timed_out(message: str) -> ApiError:
    return ApiError(504, message, kind="server_error", code="engine_timed_out")
