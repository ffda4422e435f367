from dataclasses import replace

import pytest

from engines.protocol.errors import ApiError
from gateway.directory import Key
from gateway.limits import Limits, LimitSettings

KEY = Key(
    id="key-1",
    name="ci",
    prefix="sk-af-1",
    secret_hash=b"",
    organization_id="retail",
    organization_slug="retail",
    scopes=frozenset({"inference"}),
)


def test_requests_at_once_are_bounded_and_given_back():
    limits = Limits(LimitSettings(concurrency=2))
    limits.enter(KEY)
    limits.enter(KEY)
    with pytest.raises(ApiError) as refused:
        limits.enter(KEY)
    assert (refused.value.status, refused.value.retry_after_seconds) == (429, 1)
    limits.leave(KEY)
    limits.enter(KEY)


def test_the_keys_of_an_organization_share_its_limit():
    limits = Limits(LimitSettings(requests_per_minute=2))
    limits.enter(KEY)
    limits.enter(replace(KEY, id="key-2"))
    with pytest.raises(ApiError, match="organization"):
        limits.enter(replace(KEY, id="key-3"))
    limits.enter(replace(KEY, id="key-4", organization_id="bank"))


def test_a_refused_request_uses_nothing_up(monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr("gateway.limits.time.monotonic", lambda: now)
    limits = Limits(LimitSettings(requests_per_minute=60))
    for _ in range(60):
        limits.enter(KEY)
        limits.leave(KEY)
    for _ in range(10):
        with pytest.raises(ApiError) as refused:
            limits.enter(KEY)
    assert refused.value.retry_after_seconds == 1
    now += 2
    limits.enter(KEY)
    limits.enter(KEY)
    with pytest.raises(ApiError):
        limits.enter(KEY)
