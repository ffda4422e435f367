"""DRF glue shared by every app: one error shape, one pagination."""

import functools
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, inline_serializer
from rest_framework import exceptions, serializers
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView, set_rollback

from common.errors import DomainError
from common.texts import shown

# What every paged list takes, for `extend_schema(parameters=...)`.
PAGING = [
    OpenApiParameter("limit", int, description="Rows an answer, at most 500."),
    OpenApiParameter("offset", int),
]


class Pagination(LimitOffsetPagination):
    """`?limit=50&offset=0`, at most 500 rows an answer."""

    default_limit = 50
    max_limit = 500

    @classmethod
    def answer(
        cls,
        rows: QuerySet[Any],
        serializer: type[serializers.BaseSerializer[Any]],
        request: Request,
        view: APIView,
    ) -> Response:
        """One page of rows as {"count", "next", "previous", "results"}."""
        pages = cls()
        page = pages.paginate_queryset(rows, request, view=view)
        return pages.get_paginated_response(serializer(page, many=True).data)


@functools.cache  # two lists of the same rows have one shape, not two of one name
def paginated(serializer: type[serializers.BaseSerializer[Any]]) -> Any:
    """The OpenAPI shape of a page of `serializer`, for `extend_schema(responses=...)`."""
    name = serializer.__name__.removesuffix("Body") + "Page"
    return inline_serializer(
        name,
        {
            "count": serializers.IntegerField(),
            "next": serializers.URLField(allow_null=True),
            "previous": serializers.URLField(allow_null=True),
            "results": serializer(many=True),
        },
    )


class ErrorDetail(serializers.Serializer):
    """What went wrong, for programs (`code`, `field`) and for people (`message`, `remedy`)."""

    code = serializers.CharField()
    message = serializers.CharField()
    field = serializers.CharField(required=False)
    remedy = serializers.CharField(required=False)
    details = serializers.JSONField(required=False)


class ErrorBody(serializers.Serializer):
    """Every refusal of the REST API has this shape."""

    error = ErrorDetail()


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DomainErrors and DRF's own exceptions as `ErrorBody`; anything else crashes loudly."""
    if isinstance(error, DomainError):
        set_rollback()
        return Response(_said(error), status=error.status_code)
    if isinstance(error, Http404):
        error = exceptions.NotFound("No such object, or not yours to see.")
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if not isinstance(error, exceptions.APIException):
        return None
    set_rollback()
    headers: dict[str, str] = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header  # type: ignore[attr-defined]
    if getattr(error, "wait", None):
        headers["Retry-After"] = str(int(error.wait))  # type: ignore[attr-defined]
    return Response({"error": _detail(error)}, status=error.status_code, headers=headers)


def _said(error: DomainError) -> dict[str, Any]:
    """The refusal in the language that the request accepts: English where it asks for none."""
    body = error.as_body()
    said: dict[str, Any] = body["error"]
    for name in {"message", "remedy"} & said.keys():
        said[name] = shown(said[name])
    return body


def _detail(error: exceptions.APIException) -> dict[str, Any]:
    if not isinstance(error, exceptions.ValidationError):
        return {"code": str(error.get_codes()), "message": str(error.detail)}
    field, message = _first(error.detail)
    body: dict[str, Any] = {"code": "invalid", "message": message, "details": error.detail}
    if field:
        body["field"] = field
    return body


def _first(detail: Any, path: str = "") -> tuple[str, str]:
    """The first message in DRF's nested detail, with the dotted path of its field."""
    if isinstance(detail, dict):
        for key, inner in detail.items():
            step = "" if key == "non_field_errors" else str(key)
            return _first(inner, ".".join(part for part in (path, step) if part))
    if isinstance(detail, list):
        for index, inner in enumerate(detail):
            if inner:
                nested = isinstance(inner, dict)
                return _first(inner, f"{path}.{index}" if nested and len(detail) > 1 else path)
    return path, str(detail)
