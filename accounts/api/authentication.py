"""Who calls: a key in `Authorization: Bearer`, or the console's session with CSRF."""

from datetime import timedelta

from django.utils import timezone
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.request import Request

from accounts import services
from accounts.models import ApiKey
from accounts.networks import is_within

TOUCH_AFTER = timedelta(minutes=1)


class KeyUser:
    """Stands for the holder of an API key: authenticated, nobody in particular."""

    is_authenticated = True
    is_staff = False
    pk = None

    def __init__(self, key: ApiKey) -> None:
        self.key = key

    def __str__(self) -> str:
        return f"key {self.key.name}"


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer sk-af-...`."""

    def authenticate(self, request: Request) -> tuple[KeyUser, ApiKey] | None:
        word, _, secret = request.headers.get("Authorization", "").partition(" ")
        if word.lower() != "bearer":
            return None
        now = timezone.now()
        key = services.authenticate_api_key(secret.strip(), now=now)
        if key is None:
            raise exceptions.AuthenticationFailed(
                "This API key is unknown, expired or revoked. Make one in the console under API keys."
            )
        address = request.META.get("REMOTE_ADDR", "")
        if key.allowed_networks and not is_within(address, key.allowed_networks):
            raise exceptions.PermissionDenied(
                f"This API key may not be used from {address or 'an unknown address'}."
            )
        if key.last_used_at is None or now - key.last_used_at > TOUCH_AFTER:
            ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
        return KeyUser(key), key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class ConsoleSessionAuthentication(SessionAuthentication):
    """The console's own session; changes need its CSRF token."""
