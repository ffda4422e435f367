"""Which application answers what in the web process."""

import httpx
import pytest

from factory import asgi
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
