from pathlib import Path

import pytest
from django.contrib.auth import authenticate

from factory import first_run

pytestmark = pytest.mark.django_db


def test_the_operator_gets_a_password_even_after_a_kill_before_it_was_written(
    tmp_path: Path, settings
) -> None:
    settings.FACTORY_DATA = tmp_path
    (tmp_path / "operator-password").touch(mode=0o600)
    name, password = first_run.ensure_operator()
    assert len(password) > 10
    assert authenticate(username=name, password=password) is not None
    assert first_run.ensure_operator() == (name, password)
