"""Refusals that we expect: one family, turned into HTTP in one place (`common.api`)."""

from typing import Any


class DomainError(Exception):
    """A request that cannot be granted as it stands.

    `code` is stable and for programs; `message` is for people; `field` names the input at fault
    (dotted path) and `remedy` says what to do about it. `status_code` is the HTTP status.
    """

    code = "refused"
    status_code = 409

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        remedy: str = "",
        details: dict[str, Any] | list[Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.remedy = remedy
        self.details = details

    def as_body(self) -> dict[str, Any]:
        """The answer's JSON: {"error": {"code", "message", "field"?, "remedy"?, "details"?}}."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.field:
            error["field"] = self.field
        if self.remedy:
            error["remedy"] = self.remedy
        if self.details is not None:
            error["details"] = self.details
        return {"error": error}


class InvalidInput(DomainError):
    """The input itself is wrong."""

    code = "invalid"
    status_code = 400


class NotFound(DomainError):
    """No such row, or none that the caller may see."""

    code = "not_found"
    status_code = 404


class NotAllowed(DomainError):
    """The caller is known, and may not do this."""

    code = "not_allowed"
    status_code = 403


class InvalidTransition(DomainError):
    """A status cannot follow from the present one."""

    code = "invalid_transition"
