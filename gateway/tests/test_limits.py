from dataclasses import replace

import pytest

from engines.protocol.errors import ApiError
from gateway.directory import Key
from gateway.limits import Limits, LimitSettings, Ticket, Wish

KEY = Key(
    id="key-1",
    name="ci",
    prefix="sk-af-1",
    secret_hash=b"",
    organization_id="retail",
    organization_slug="retail",
    scopes=frozenset({"inference"}),
)


async def enter(limits: Limits, key: Key = KEY) -> Ticket:
    return await limits.enter(key, Wish("tiny", input_tokens=10))


def leave(limits: Limits, ticket: Ticket) -> None:
    limits.leave(ticket, is_counted=True, input_tokens=0, cached_input_tokens=0, output_tokens=0)


async def test_requests_at_once_are_bounded_and_given_back():
    limits = Limits(LimitSettings(concurrency=2))
    await enter(limits)
    second = await enter(limits)
    with pytest.raises(ApiError) as refused:
        await enter(limits)
    assert (refused.value.status, refused.value.retry_after_seconds) == (429, 1)
    leave(limits, second)
    await enter(limits)


async def test_the_keys_of_an_organization_share_its_limit():
    limits = Limits(LimitSettings(requests_per_minute=2))
    await enter(limits)
    await enter(limits, replace(KEY, id="key-2"))
    with pytest.raises(ApiError, match="organization"):
        await enter(limits, replace(KEY, id="key-3"))
    await enter(limits, replace(KEY, id="key-4", organization_id="bank"))


async def test_a_refused_request_uses_nothing_up(monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr("gateway.limits.local.time.monotonic", lambda: now)
    limits = Limits(LimitSettings(requests_per_minute=60))
    for _ in range(60):
        leave(limits, await enter(limits))
    for _ in range(10):
        with pytest.raises(ApiError) as refused:
            await enter(limits)
    assert refused.value.retry_after_seconds == 1
    now += 2
    await enter(limits)
    await enter(limits)
    with pytest.raises(ApiError):
        await enter(limits)


async def test_holders_that_have_all_they_may_have_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr("gateway.limits.local.time.monotonic", lambda: now)
    limits = Limits(LimitSettings(requests_per_minute=60, concurrency=1))
    ticket = await enter(limits)
    limits.forget(now + 120)  # open still: its place is taken
    with pytest.raises(ApiError, match="open"):
        await enter(limits)
    leave(limits, ticket)
    limits.forget(now + 180)
    assert not limits._holders
