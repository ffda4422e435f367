"""Which application answers what in the web process."""

from collections.abc import AsyncIterator

import httpx
import pytest
from django.test import Client

from factory import asgi, bodies
from gateway.tests.make import RunningGateway


@pytest.mark.django_db(transaction=True)
async def test_the_gateway_answers_v1_and_django_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = RunningGateway().gateway  # one whose threads close their connections
    monkeypatch.setattr(asgi, "gateway", gateway)
    transport = httpx.ASGITransport(app=asgi.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path in ("/v1", "/v1/models", "/v1/no/such"):
            answer = await client.get(path)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/v10/models")).status_code == 404
    await gateway.stop()


@pytest.mark.django_db
@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_body_past_the_limit_is_not_taken_in(
    settings, content_type: str, is_declared: bool
) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE, settings.FACTORY_MAX_UPLOAD_BYTES = 1000, 5000
    limit = 1000 if content_type == "application/json" else bodies.FORM_BYTES + 5000
    taken = 0

    async def chunks(size: int) -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < size:
            part = min(500_000, size - taken)
            taken += part
            yield b"x" * part

    transport = httpx.ASGITransport(app=asgi.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        headers = {"Content-Type": content_type}
        if is_declared:
            headers["Content-Length"] = str(limit + 1)
        answer = await client.post("/api/v1/models/", content=chunks(limit + 1), headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"
        taken = 0
        answer = await client.post(
            "/api/v1/models/",
            content=chunks(limit),
            headers=headers | ({"Content-Length": str(limit)} if is_declared else {}),
        )
        assert answer.status_code == 401


def test_the_docs_hold_no_script_in_the_page(client: Client) -> None:
    page = client.get("/api/v1/docs/")
    assert page.status_code == 200
    assert b"<script>" not in page.content
    script = client.get("/api/v1/docs/?script=")
    assert script["Content-Type"] == "application/javascript"
    assert b"SwaggerUIBundle" in script.content
