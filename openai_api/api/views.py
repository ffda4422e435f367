"""What every view here does: let a key in, answer in JSON, refuse in OpenAI's shape."""

import json
import logging
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import RequestDataTooBig, TooManyFieldsSent
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.http.multipartparser import MultiPartParserError
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from common.errors import DomainError
from engines.protocol.errors import ApiError, invalid
from openai_api import names
from openai_api.api import errors
from openai_api.api.auth import Caller, authenticate

logger = logging.getLogger(__name__)


@method_decorator(csrf_exempt, name="dispatch")
class ApiView(View):
    """`self.caller` and `self.now` are there for the methods of a subclass, which may raise
    ApiError and DomainError."""

    caller: Caller
    now: datetime

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        self.now = timezone.now()
        try:
            self.caller = authenticate(request, now=self.now)
            for name, value in request.GET.items():
                if "\0" in value or "\0" in name:  # no text of a row can
                    raise invalid(name.replace("\0", ""), "It holds a NUL character.")
            return super().dispatch(request, *args, **kwargs)
        except ApiError as error:
            return errors.answer(error)
        except DomainError as refusal:
            return errors.answer(errors.of(refusal))
        except (MultiPartParserError, RequestDataTooBig, TooManyFieldsSent) as error:
            return errors.answer(errors.invalid_body(str(error), code="invalid_body"))
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            broken = ApiError(
                500,
                "The platform failed on this request.",
                kind="server_error",
                code="internal_error",
            )
            return errors.answer(broken)

    def http_method_not_allowed(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        raise errors.wrong_method(str(request.method), request.path)


class Unknown(ApiView):
    """Whatever else lies under the paths that are answered here."""

    def http_method_not_allowed(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        raise errors.no_route(str(request.method), request.path)


class Listing:
    """A list that is read on from the last id of the page before."""

    default_limit: ClassVar[int] = 20
    most: ClassVar[int] = 100

    @classmethod
    def limit(cls, request: HttpRequest) -> int:
        """Raises ApiError."""
        given = request.GET.get("limit")
        if given is None:
            return cls.default_limit
        if not given.isdecimal() or not 1 <= int(given[:9]) <= cls.most:
            raise invalid("limit", f"'limit' must be a number from 1 to {cls.most}.")
        return int(given)

    @staticmethod
    def after(request: HttpRequest, prefix: str) -> UUID | None:
        """Raises ApiError."""
        given = request.GET.get("after")
        if not given:
            return None
        found = names.read_id(prefix, given)
        if found is None:
            raise invalid("after", f"'after' must be the id of one of these: {prefix}-...")
        return found


def paged(
    rows: models.QuerySet[Any], *, after: UUID | None, limit: int, ascending: bool = False
) -> tuple[list[Any], bool]:
    """One page, and whether there are more. Ids sort by the time they were made."""
    if after is not None:
        rows = rows.filter(pk__gt=after) if ascending else rows.filter(pk__lt=after)
    found = list(rows.order_by("pk" if ascending else "-pk")[: limit + 1])
    return found[:limit], len(found) > limit


def list_answer(bodies: list[dict[str, Any]], *, has_more: bool) -> JsonResponse:
    return JsonResponse(
        {
            "object": "list",
            "data": bodies,
            "first_id": bodies[0]["id"] if bodies else None,
            "last_id": bodies[-1]["id"] if bodies else None,
            "has_more": has_more,
        }
    )


def read_object(request: HttpRequest) -> dict[str, Any]:
    """The body, a JSON object; an empty one for no body. Raises ApiError."""
    if not request.body:
        return {}
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise errors.invalid_body(f"The body is not JSON: {error}.") from None
    if not isinstance(body, dict):
        raise errors.invalid_body("The body must be a JSON object.", code="invalid_type")
    return body
