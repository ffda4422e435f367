import pytest
from django.test import Client


@pytest.mark.django_db
def test_ready_says_what_is_not(client: Client, settings) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "redis" in answer.json()["problems"]


@pytest.mark.django_db
def test_answers_carry_a_request_id(client: Client) -> None:
    assert len(client.get("/healthz")["X-Request-Id"]) == 36
    given = client.get("/healthz", headers={"X-Request-Id": "ticket-4711"})
    assert given["X-Request-Id"] == "ticket-4711"
    forged = client.get("/healthz", headers={"X-Request-Id": "x\ty"})
    assert forged["X-Request-Id"] != "x\ty"


@pytest.mark.django_db
def test_the_back_office_is_entered_by_the_one_sign_in(client: Client) -> None:
    answer = client.get("/admin/login/?next=/admin/")
    assert answer.status_code == 302
    assert answer["Location"].startswith("/accounts/login/")
