"""The web process: the gateway answers /v1/ before Django sees it; Django answers the rest."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "factory.settings.dev")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from factory import bodies  # noqa: E402
from factory.bodies import Message, Receive, Send  # noqa: E402
from gateway import assembly  # noqa: E402 - its models need Django set up, which the call above did

gateway = assembly.build()


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """ASGI's entry. The lifespan is the gateway's: Django has none."""
    if scope["type"] == "lifespan":
        await gateway.lifespan(receive, send)
    elif scope["type"] == "http" and (scope["path"] == "/v1" or scope["path"].startswith("/v1/")):
        await gateway(scope, receive, send)
    else:
        await bodies.bounded(django_application, scope, receive, send)  # type: ignore[arg-type]
