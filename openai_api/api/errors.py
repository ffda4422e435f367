"""Refusals in OpenAI's shape, so that official clients raise their own errors."""

from django.http import JsonResponse

from common.errors import DomainError
from engines.protocol.errors import ApiError

UNPROCESSABLE = {409, 422}  # OpenAI says 400 to all that a client can mend


def unauthenticated(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


def forbidden(message: str, *, code: str, param: str | None = None) -> ApiError:
    return ApiError(403, message, kind="permission_error", code=code, param=param)


def too_many(message: str, *, retry_after_seconds: int) -> ApiError:
    return ApiError(
        429,
        message,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_seconds=retry_after_seconds,
    )


def no_route(method: str, path: str) -> ApiError:
    return ApiError(404, f"Unknown request URL: {method} {path}.", code="unknown_url")


def wrong_method(method: str, path: str) -> ApiError:
    return ApiError(405, f"{path} does not take {method}.", code="method_not_allowed")


def invalid_body(message: str, *, code: str = "invalid_json") -> ApiError:
    return ApiError(400, message, code=code)


def of(refusal: DomainError) -> ApiError:
    """The same refusal for OpenAI's clients."""
    status = 400 if refusal.status_code in UNPROCESSABLE else refusal.status_code
    return ApiError(
        status,
        f"{refusal.message} {refusal.remedy}".strip(),
        kind="server_error" if status >= 500 else "invalid_request_error",
        param=refusal.field or None,
        code=refusal.code,
    )


def answer(error: ApiError) -> JsonResponse:
    response = JsonResponse(error.body(), status=error.status)
    if error.retry_after_seconds is not None:
        response["Retry-After"] = str(error.retry_after_seconds)
    if error.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response
