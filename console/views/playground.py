"""The playground: what does it say, beside another model? Its answers go through the gateway,
so that they are routed, limited and metered like any client's."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts import selectors, services
from accounts.choices import Capability, Scope
from accounts.models import Organization, User
from console import offers
from console.pages import ConsoleRequest, chosen_organization, console_page, show

logger = logging.getLogger(__name__)

KEY_SECONDS = 3600
PASSED_ON = ("model", "messages", "temperature", "max_tokens", "top_p", "seed")
TIMEOUT = httpx.Timeout(120.0, connect=5.0)


@console_page(Capability.INFER)
def playground(request: ConsoleRequest) -> HttpResponse:
    models = offers.served_models(request.organization)
    chosen = request.GET.get("model", "")
    return show(
        request,
        "console/playground.html",
        {
            "title": _("Playground"),
            "lede": _("Talk to one model, or to two side by side. It is metered like any request."),
            "models": [name for name, _label in models],
            "chosen": chosen,
            "base_url": settings.FACTORY_BASE_URL,
        },
    )


@require_POST
async def answer(request: HttpRequest) -> HttpResponseBase:
    """The stream of one completion, as the gateway sends it (server-sent events)."""
    try:
        body = json.loads(request.body)
        asked = {name: body[name] for name in PASSED_ON if name in body}
    except (ValueError, TypeError):
        return _problem(400, _("The request is not JSON."))
    secret = await sync_to_async(_key_for)(request)
    if secret is None:
        return _problem(401, _("Your session has ended. Sign in again."))
    asked |= {"stream": True, "stream_options": {"include_usage": True}}
    stack = AsyncExitStack()
    try:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=TIMEOUT))
        upstream = await stack.enter_async_context(
            client.stream(
                "POST",
                f"{settings.FACTORY_BASE_URL}/v1/chat/completions",
                json=asked,
                headers={"Authorization": f"Bearer {secret}"},
            )
        )
        if upstream.status_code != 200:
            text = await upstream.aread()
            await stack.aclose()
            return HttpResponse(text, status=upstream.status_code, content_type="application/json")
    except httpx.HTTPError as error:
        await stack.aclose()
        logger.warning("the gateway cannot be reached: %s", error)
        return _problem(503, _("The gateway cannot be reached. Try again in a moment."))
    response = StreamingHttpResponse(_relay(stack, upstream), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


async def _relay(stack: AsyncExitStack, upstream: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes as they come. When the reader leaves, the request above ends as well."""
    async with stack:
        try:
            async for chunk in upstream.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            logger.warning("the stream broke: %s", error)
            message = {"error": {"message": _("The answer broke off. Try again.")}}
            yield f"data: {json.dumps(message)}\n\n".encode()


def _problem(status: int, message: str) -> JsonResponse:
    return JsonResponse({"error": {"message": message}}, status=status)


def _key_for(request: HttpRequest) -> str | None:
    """An internal key of this person for this organization, made anew each hour; None if nobody
    is signed in. Raises PermissionDenied."""
    if not request.user.is_authenticated:
        return None
    user = request.user
    organization = chosen_organization(request)
    if organization is None:
        raise PermissionDenied
    if Capability.INFER not in selectors.get_capabilities(user, organization):
        raise PermissionDenied
    name = f"playground:{organization.pk}:{user.pk}"
    kept: Any = cache.get(name)
    if kept is None:
        kept = _issue(organization, user)
        cache.set(name, kept, KEY_SECONDS - 300)
    return str(kept)


def _issue(organization: Organization, user: User) -> str:
    now = timezone.now()
    return services.issue_api_key(
        organization=organization,
        name=f"Playground, {user.get_username()}",
        scopes=[Scope.INFERENCE],
        created_by=user,
        expires_at=now + timedelta(seconds=KEY_SECONDS),
        is_internal=True,
        now=now,
    ).secret
