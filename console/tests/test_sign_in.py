"""Sign-in: plain, in both languages, and no help to guessers."""

import pytest
from django.test import Client

from accounts.tests.make import make_member, make_organization

pytestmark = pytest.mark.django_db

LOGIN = "/accounts/login/"


def test_a_wrong_password_is_refused_and_the_name_kept() -> None:
    make_member(make_organization(), "ada")
    answer = Client().post(LOGIN, {"login": "ada", "password": "not-the-password"})
    page = answer.content.decode()
    assert answer.status_code == 200
    assert 'role="alert"' in page
    assert 'value="ada"' in page
    assert "not-the-password" not in page


def test_signing_in_leads_to_the_page_that_was_asked_for() -> None:
    make_member(make_organization(), "ada")
    client = Client()
    asked = client.get("/models/")
    assert asked["Location"] == f"{LOGIN}?next=/models/"
    answer = client.post(asked["Location"], {"login": "ada", "password": "a-long-password"})
    assert answer["Location"] == "/models/"
    assert client.get("/models/").status_code == 200


def test_guessing_is_slowed_down_with_a_page_of_its_own() -> None:
    client = Client()
    answers = [client.post(LOGIN, {"login": "ada", "password": f"guess {n}"}) for n in range(40)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert "Too many attempts" in answers[-1].content.decode()


def test_strangers_cannot_make_accounts() -> None:
    page = Client().get("/accounts/signup/").content.decode()
    assert "Accounts are made by your organization" in page
