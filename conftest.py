"""Tests run on real PostgreSQL and real Redis; without their URLs, on the embedded ones.

With `-n 2` each of pytest's workers has a data folder, and so embedded servers, of its own
(factory.settings.test, which is read before this file).
"""

import os
from pathlib import Path

import pytest

from factory import embedded

DATA = Path(os.environ.get("FACTORY_DATA") or Path(__file__).parent / ".factory" / "test").resolve()


def runs_tests(config: pytest.Config) -> bool:
    """False where tests are only listed, and in the process that hands them out to workers."""
    hands_out = not hasattr(config, "workerinput") and getattr(config.option, "dist", "no") != "no"
    return not (config.option.collectonly or hands_out)


def pytest_configure(config: pytest.Config) -> None:
    if not runs_tests(config):
        return
    if not os.environ.get("DATABASE_URL"):
        embedded.start_postgres(DATA)
    if not os.environ.get("REDIS_URL"):
        embedded.start_redis(DATA)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not runs_tests(config):
        return
    if not os.environ.get("REDIS_URL"):
        embedded.stop_redis(DATA)
    if not os.environ.get("DATABASE_URL"):
        embedded.stop_postgres(DATA)


@pytest.fixture(autouse=True)
def _clean_redis(request: pytest.FixtureRequest) -> None:
    """Each test that uses the database starts with an empty Redis as well."""
    asked = {"db", "transactional_db"} & set(request.fixturenames)
    if asked or request.node.get_closest_marker("django_db"):
        from django.conf import settings
        from redis import Redis

        client = Redis.from_url(settings.REDIS_URL)
        client.flushdb()
        client.close()
