"""The web process: the gateway answers /v1/ before Django sees it, but for files and fine-tuning;
Django answers the rest."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "factory.settings.dev")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from factory import bodies  # noqa: E402
from factory.bodies import Message, Receive, Send  # noqa: E402
from gateway import assembly  # noqa: E402 - its models need Django set up, which the call above did
from openai_api.api.urls import is_ours  # noqa: E402

gateway = assembly.build()
assembly.settle()


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """ASGI's entry. The lifespan is the gateway's: Django has none."""
    if scope["type"] == "lifespan":
        await gateway.lifespan(receive, send)
    elif scope["type"] == "http" and scope["path"] == "/metrics":
        await gateway.metrics(scope, receive, send)
    elif scope["type"] == "http" and _is_gateways(scope["method"], scope["path"]):
        await gateway(scope, receive, send)
    else:
        await bodies.bounded(django_application, scope, receive, send)  # type: ignore[arg-type]


def _is_gateways(method: str, path: str) -> bool:
    return (path == "/v1" or path.startswith("/v1/")) and not is_ours(method, path)
