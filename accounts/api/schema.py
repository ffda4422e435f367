"""How the OpenAPI description speaks of our authentication."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "accounts.api.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API key of the organization"}


class ConsoleSessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "accounts.api.authentication.ConsoleSessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}


def add_refusals(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Every operation may answer 401 and 403: told here once (a drf-spectacular hook)."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    for operations in result["paths"].values():
        for operation in operations.values():
            if "responses" in operation:
                answers = operation["responses"]
                answers.setdefault(
                    "401", {"description": "No key, or no live one.", "content": content}
                )
                answers.setdefault(
                    "403", {"description": "It may not do this.", "content": content}
                )
    return result
