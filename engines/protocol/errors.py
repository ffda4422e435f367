"""Refusals in the shape OpenAI's clients understand."""

from collections.abc import Sequence
from typing import Any


class ApiError(Exception):
    """One request refused. `param` names the field at fault; `retry_after_seconds` asks to return;
    `headers` go out with the answer, as bytes, names in lower case."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def invalid(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    """A field with a value of the wrong type or out of range."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, message: str) -> ApiError:
    """A field of the API that this engine knows and cannot serve."""
    return ApiError(400, message, param=param, code="unsupported_parameter")


def no_such_model(name: str) -> ApiError:
    message = f"The model {name!r} does not exist here."
    return ApiError(404, message, param="model", code="model_not_found")


def context_length_exceeded(*, param: str, limit: int, wanted: str) -> ApiError:
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens; {wanted}.",
        param=param,
        code="context_length_exceeded",
    )


def unavailable(message: str, *, code: str, retry_after_seconds: int) -> ApiError:
    """Not now: another replica, or this one a little later, may answer."""
    return ApiError(
        503,
        message,
        kind="server_error",
        code=code,
        retry_after_seconds=retry_after_seconds,
    )


def failed(message: str) -> ApiError:
    """The engine broke while answering; the fault is not the client's."""
    return ApiError(500, message, kind="server_error", code="internal_error")
