"""Who calls: the same bearer keys as the gateway's, with a scope that lets them do this."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from redis.exceptions import RedisError

from accounts import selectors, services
from accounts.audit import Actor
from accounts.choices import Capability
from accounts.models import ApiKey, Organization
from openai_api.api import errors

HELP = "Make one in the console under API keys, and send it as `Authorization: Bearer sk-af-...`."
TOUCH_AFTER = timedelta(minutes=1)
LOOK = frozenset({Capability.FINE_TUNE, Capability.VIEW})
CHANGE = frozenset({Capability.FINE_TUNE, Capability.DEVELOP})


@dataclass(frozen=True)
class Caller:
    key: ApiKey
    organization: Organization
    actor: Actor


def authenticate(request: HttpRequest, *, now: datetime) -> Caller:
    """Raises ApiError: 401, 403 or 429."""
    word, _, secret = request.headers.get("Authorization", "").partition(" ")
    if word.lower() != "bearer" or not secret.strip():
        raise errors.unauthenticated(f"You did not send an API key. {HELP}")
    key = services.authenticate_api_key(secret.strip(), now=now)
    if key is None:
        raise errors.unauthenticated(f"This API key is unknown, expired or revoked. {HELP}")
    needed = LOOK if request.method in {"GET", "HEAD"} else CHANGE
    if not needed & selectors.get_key_capabilities(key):
        raise errors.forbidden(
            "This API key was not made for files and fine-tuning: use one with the scope "
            "`fine_tuning`.",
            code="missing_scope",
        )
    _count(key, now=now)
    if key.last_used_at is None or now - key.last_used_at > TOUCH_AFTER:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    actor = Actor(
        "api_key", f"{key.name} ({key.prefix})", str(request.META.get("REMOTE_ADDR") or "")
    )
    return Caller(key=key, organization=key.organization, actor=actor)


def check_model(caller: Caller, name: str) -> None:
    """A key that is restricted to some models may train those alone. Raises ApiError (403)."""
    allowed = caller.key.allowed_models
    if allowed and name not in allowed:
        raise errors.forbidden(
            f"This API key may not use the model {name!r}.", code="model_not_allowed", param="model"
        )


def _count(key: ApiKey, *, now: datetime) -> None:
    """Requests of a key in this minute, in all web processes; without Redis nobody counts."""
    minute, limit = int(now.timestamp()) // 60, settings.OPENAI_API_REQUESTS_PER_MINUTE
    name = f"openai_api:{key.pk}:{minute}"
    try:
        cache.add(name, 0, timeout=120)
        count = cache.incr(name)
    except (RedisError, OSError, ValueError):
        return
    if count > limit:
        raise errors.too_many(
            f"This API key may send {limit} requests a minute to files and fine-tuning.",
            retry_after_seconds=60 - int(now.timestamp()) % 60,
        )
