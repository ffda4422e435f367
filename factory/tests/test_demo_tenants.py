from pathlib import Path

import pytest
from django.contrib.auth import authenticate

from accounts.tests.make import NOW
from factory import demo_tenants

pytestmark = pytest.mark.django_db


def test_a_kill_in_the_middle_leaves_nobody_with_a_password_that_is_not_kept(
    tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.FACTORY_DATA = tmp_path
    make_person = demo_tenants._person

    def die_after(username: str, *rest: object) -> None:
        make_person(username, *rest)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(demo_tenants, "_person", die_after)
        with pytest.raises(KeyboardInterrupt):
            demo_tenants.ensure_tenants(now=NOW)
    tenants = demo_tenants.ensure_tenants(now=NOW)
    assert authenticate(username=tenants.username, password=tenants.password) is not None
    assert demo_tenants.ensure_tenants(now=NOW) == tenants
    assert (tmp_path / "demo-tenants.json").stat().st_mode & 0o777 == 0o600
