"""What gateways told outlives the Redis that it waits in."""

import os
import signal
from pathlib import Path

import pytest
import redis as redis_library

from accounts.tests.make import NOW
from factory import embedded
from usage import ingest, stream
from usage.models import UsageEvent
from usage.tests.make import make_event, redis, tell

pytestmark = [pytest.mark.django_db, pytest.mark.processes]


def test_redis_killed_between_two_reads_still_has_what_was_not_taken(
    tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.start_redis(tmp_path)
    settings.REDIS_URL = embedded.redis_url(tmp_path)
    try:
        tell(*[make_event() for _ in range(60)])
        with monkeypatch.context() as patch:
            patch.setattr(ingest, "_acknowledge", _fail)
            with pytest.raises(redis_library.ConnectionError):
                ingest.ingest(now=NOW)  # the rows are there, Redis does not know
        assert UsageEvent.objects.count() == ingest.BATCH
        os.kill(int((tmp_path / "redis" / "valkey.pid").read_text()), signal.SIGKILL)
        with pytest.raises(redis_library.ConnectionError):
            ingest.ingest(now=NOW)
        embedded.start_redis(tmp_path)
        assert redis().xpending(stream.EVENTS, stream.GROUP)["pending"] == ingest.BATCH
        assert ingest.ingest(now=NOW) == 60
    finally:
        embedded.stop_redis(tmp_path)
    assert UsageEvent.objects.count() == 60


def _fail(*_arguments: object) -> None:
    raise redis_library.ConnectionError("Redis is away")
