"""The playground's stream: through the gateway, with a key of the person's own, metered alike."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import AsyncClient
from django.urls import reverse

from accounts.choices import Role
from accounts.models import ApiKey
from accounts.services import prefix_of
from accounts.tests.make import make_member, make_organization

pytestmark = pytest.mark.django_db(transaction=True)

EVENTS = [
    b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n',
    b'data: {"choices": [{"delta": {"content": "lo"}}]}\n\n',
    b"data: [DONE]\n\n",
]


class Gateway(BaseHTTPRequestHandler):
    seen: list[tuple[str, dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Gateway.seen.append((self.headers["Authorization"], body))
        if body["model"] == "unknown":
            text = b'{"error": {"message": "No such model."}}'
            self.send_response(404)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in EVENTS:
            self.wfile.write(event)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def gateway(settings) -> Iterator[str]:
    Gateway.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.FACTORY_BASE_URL = f"http://127.0.0.1:{server.server_address[1]}"
    yield settings.FACTORY_BASE_URL
    server.shutdown()
    server.server_close()


async def ask(client: AsyncClient, **body: object):
    body = {"model": "support", "messages": [{"role": "user", "content": "Hi"}]} | body
    return await client.post(
        reverse("console:playground_answer"), json.dumps(body), content_type="application/json"
    )


async def text_of(answer) -> bytes:
    return b"".join([chunk async for chunk in answer.streaming_content])


@sync_to_async
def signed_in(role: str = Role.DEVELOPER) -> AsyncClient:
    client = AsyncClient()
    client.force_login(make_member(make_organization(), "ada", role))
    return client


@pytest.fixture(autouse=True)
async def _leave_no_connection() -> AsyncIterator[None]:
    """The threads that answered keep connections of their own, which the clean-up waits for."""
    yield
    await sync_to_async(connections.close_all)()


async def test_answers_stream_as_the_gateway_sends_them_with_one_key(gateway: str) -> None:
    client = await signed_in()
    answer = await ask(client, temperature=0.5, stream=False, user="somebody")
    assert answer["Content-Type"] == "text/event-stream"
    assert await text_of(answer) == b"".join(EVENTS)
    assert await text_of(await ask(client)) == b"".join(EVENTS)
    key = await ApiKey.objects.aget()  # one, however often it is used
    assert key.is_internal
    assert key.scopes == ["inference"]
    assert key.expires_at is not None
    header, body = Gateway.seen[0]
    assert prefix_of(header.removeprefix("Bearer ")) == key.prefix
    assert body["stream"] is True
    assert body["temperature"] == 0.5
    assert "user" not in body


async def test_what_cannot_be_answered_is_said_so(gateway: str, settings) -> None:
    assert (await ask(await signed_in(Role.VIEWER))).status_code == 403
    assert (await ask(AsyncClient())).status_code == 401
    assert not Gateway.seen
    client = await signed_in()
    unknown = await ask(client, model="unknown")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["message"] == "No such model."
    settings.FACTORY_BASE_URL = "http://127.0.0.1:9"
    away = await ask(client)
    assert away.status_code == 503
    assert "cannot be reached" in away.json()["error"]["message"]
