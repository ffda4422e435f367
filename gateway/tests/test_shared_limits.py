"""Limits that several processes keep together: here several limiters on one real Redis."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from redis import Redis

from engines.protocol.errors import ApiError
from gateway.directory import Key
from gateway.limits import Limits, Ticket, Wish
from gateway.limits.rules import Prices, Rule, Rules, Tariff
from gateway.limits.shared import SharedLimits, spent_key
from gateway.limits.turns import Turns

KEY = Key(
    id="key-1",
    name="ci",
    prefix="sk-af-1",
    secret_hash=b"",
    organization_id="retail",
    organization_slug="retail",
    scopes=frozenset({"inference"}),
)
WISH = Wish("tiny", body_bytes=10, input_tokens=3, max_output_tokens=5)


class Known:
    """A ledger of these rules; `spent` is what it knows was used of each."""

    def __init__(self, *rules: Rule, spent: int = 0) -> None:
        self.rules = {
            "retail": Rules(
                rules=rules,
                tariffs={"tiny": Tariff(prices=(Prices(10, 10, 100),))},
                context_tokens={"tiny": 1000},
            )
        }
        self.spent = spent
        self.asked = 0

    def load_rules(self):
        return self.rules

    def load_spent(self, rule, start, end):
        self.asked += 1
        return self.spent


def make_rule(measure: str = "requests", period: str = "day", amount: int = 10, **fields) -> Rule:
    return Rule(id=str(uuid4()), measure=measure, period=period, amount=amount, **fields)


@contextlib.asynccontextmanager
async def limiters(ledger: Known, count: int = 1, **options) -> AsyncIterator[list[SharedLimits]]:
    values: dict[str, Any] = {"redis_url": settings.REDIS_URL, "inner": Limits()} | options
    found = [SharedLimits(ledger, **values) for _ in range(count)]
    running = [asyncio.ensure_future(each.run()) for each in found]
    for each in found:
        await each.refresh()
    try:
        yield found
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def leave(limits: SharedLimits, ticket: Ticket, *, into: int = 0, out: int = 0, cached: int = 0):
    limits.leave(
        ticket,
        is_counted=True,
        input_tokens=into,
        cached_input_tokens=cached,
        output_tokens=out,
    )


def spent(rule: Rule, at: float) -> int:
    client = Redis.from_url(settings.REDIS_URL)
    found: Any = client.hget(spent_key(rule, at=at), "spent")
    client.close()
    return int(found or 0)


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def ask_until_refused(limits: SharedLimits, refusals: int = 3) -> int:
    """One client that sends request after request; how many were answered."""
    answered = 0
    while refusals:
        try:
            ticket = await limits.enter(KEY, WISH)
        except ApiError as error:
            if error.status != 429:
                raise
            refusals -= 1
            await asyncio.sleep(0.01)
            continue
        await asyncio.sleep(0)
        leave(limits, ticket)
        answered += 1
    return answered


@pytest.mark.parametrize("amount", [1, 63, 500, 3000])
async def test_a_budget_of_so_many_requests_lets_exactly_so_many_in(amount):
    rule = make_rule(amount=amount)
    async with limiters(Known(rule), 4) as found:
        counts = await asyncio.gather(*(ask_until_refused(found[i % 4]) for i in range(64)))
    assert sum(counts) == amount


async def test_what_is_reserved_and_not_used_comes_back():
    rule = make_rule("tokens", amount=1000)
    async with limiters(Known(rule), 2) as (one, other):
        ticket = await one.enter(KEY, Wish("tiny", body_bytes=10, max_output_tokens=500))
        with pytest.raises(ApiError, match="max_tokens"):
            await other.enter(KEY, Wish("tiny", body_bytes=10, max_output_tokens=500))
        leave(one, ticket, into=30, out=20)
        await until(lambda: spent(rule, time.time()) == 50)
        ticket = await other.enter(KEY, Wish("tiny", body_bytes=10, max_output_tokens=500))
        leave(other, ticket, into=1, out=1)
    assert spent(rule, time.time()) == 52


async def test_money_is_counted_by_the_prices_and_never_overspent():
    rule = make_rule("money", amount=100_000)
    taken = 0
    async with limiters(Known(rule), 3) as found:

        async def spend(limits: SharedLimits) -> None:
            nonlocal taken
            while True:
                try:
                    ticket = await limits.enter(KEY, WISH)
                except ApiError:
                    return
                await asyncio.sleep(0)
                taken += 8 * 10 + 5 * 100
                leave(limits, ticket, into=8, out=5)

        await asyncio.gather(*(spend(found[i % 3]) for i in range(12)))
    assert taken <= 100_000
    assert taken > 100_000 - 12 * (266 * 10 + 5 * 100)  # what twelve open requests may hold
    assert spent(rule, time.time()) == taken


async def test_all_limits_have_room_or_none_is_touched():
    wide, narrow = make_rule(amount=100), make_rule(amount=2, key_id=KEY.id)
    async with limiters(Known(wide, narrow)) as (limits,):
        assert await ask_until_refused(limits) == 2
    assert (spent(wide, time.time()), spent(narrow, time.time())) == (2, 2)


async def test_requests_at_once_are_bounded_over_all_processes():
    rule = make_rule("concurrency", "", 3)
    async with limiters(Known(rule), 2) as (one, other):
        tickets = [await each.enter(KEY, WISH) for each in (one, other, one)]
        with pytest.raises(ApiError, match="3 requests open") as refused:
            await other.enter(KEY, WISH)
        assert refused.value.code == "concurrency_limit_exceeded"
        leave(one, tickets[0])
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(ApiError):
                    await other.enter(KEY, WISH)
                    break


async def test_a_refusal_says_how_much_until_when():
    rule = make_rule("requests", "minute", 2)
    async with limiters(Known(rule)) as (limits,):
        first = await limits.enter(KEY, WISH)
        assert dict(first.headers)[b"x-ratelimit-limit-requests"] == b"2"
        assert dict(first.headers)[b"x-ratelimit-remaining-requests"] == b"1"
        await limits.enter(KEY, WISH)
        with pytest.raises(ApiError) as refused:
            await limits.enter(KEY, WISH)
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    assert refused.value.retry_after_seconds in range(1, 61)
    assert dict(refused.value.headers)[b"x-ratelimit-remaining-requests"] == b"0"


async def test_what_the_ledger_knows_counts_where_redis_knows_nothing():
    rule = make_rule(amount=10)
    ledger = Known(rule, spent=7)
    async with limiters(ledger, 2) as found:
        counts = await asyncio.gather(*(ask_until_refused(each) for each in found))
    assert sum(counts) == 3
    assert ledger.asked <= 2


async def test_numbers_that_redis_lost_are_built_again_and_open_requests_keep_their_room():
    rule = make_rule(amount=10)
    ledger = Known(rule)
    async with limiters(ledger) as (limits,):
        tickets = [await limits.enter(KEY, WISH) for _ in range(4)]
        client = Redis.from_url(settings.REDIS_URL)
        client.delete(spent_key(rule, at=time.time()))
        client.close()
        ledger.spent = 3
        assert await ask_until_refused(limits) == 3
        for ticket in tickets:
            leave(limits, ticket)
    assert spent(rule, time.time()) == 10


async def test_a_warning_is_given_once():
    rule = make_rule(amount=10, warn_percent=80)
    warned = []
    async with limiters(Known(rule), 2, warn=lambda rule, start: warned.append(rule.id)) as found:
        await asyncio.gather(*(ask_until_refused(each) for each in found))
    assert warned == [rule.id]


@pytest.mark.parametrize("fails_open", [True, False])
async def test_while_redis_is_away_requests_are_let_in_or_not_as_configured(fails_open):
    rule = make_rule(amount=1)
    away = "redis://127.0.0.1:1/0"
    async with limiters(Known(rule), fails_open=fails_open, redis_url=away) as (limits,):
        if fails_open:
            for _ in range(3):
                leave(limits, await limits.enter(KEY, WISH))
        else:
            with pytest.raises(ApiError) as refused:
                await limits.enter(KEY, WISH)
            assert (refused.value.status, refused.value.code) == (503, "limits_unavailable")


async def test_a_turn_that_is_told_twice_counts_once(monkeypatch):
    """An answer that is lost leaves it open whether the turn was done."""
    rule = make_rule(amount=10)
    async with limiters(Known(rule)) as (limits,):
        leave(limits, await limits.enter(KEY, WISH))
        await until(lambda: spent(rule, time.time()) == 1)
        ticket = await limits.enter(KEY, WISH)
        real = Turns._hear
        lost: list[object] = []

        def lose(self, *args):
            if not lost:
                lost.append(args)
                raise ConnectionError("the answer is lost")
            real(self, *args)

        monkeypatch.setattr(Turns, "_hear", lose)
        leave(limits, ticket)
        await until(lambda: lost and not limits.turns.is_away)
        assert spent(rule, time.time()) == 2
        assert await ask_until_refused(limits) == 8


async def test_a_dead_process_holds_nothing_after_a_while(monkeypatch):
    monkeypatch.setattr("gateway.limits.turns.ALIVE_SECONDS", 1)
    rule = make_rule(amount=10)
    ledger = Known(rule)
    async with limiters(ledger) as (limits,):
        dead = SharedLimits(ledger, redis_url=settings.REDIS_URL, inner=Limits())
        await dead.refresh()
        running = asyncio.ensure_future(dead.turns.run())
        settled = [await dead.enter(KEY, WISH) for _ in range(3)]
        for ticket in settled:
            leave(dead, ticket)
        for _ in range(4):
            await dead.enter(KEY, WISH)
        await until(lambda: spent(rule, time.time()) == 3)
        monkeypatch.setattr(dead.turns, "_try_turn", _never)  # killed: not a word more
        running.cancel()
        assert await ask_until_refused(limits) == 3
        async with asyncio.timeout(10):
            answered = 0
            while not answered:
                answered = await ask_until_refused(limits, refusals=1)
                await asyncio.sleep(0.1)
            answered += await ask_until_refused(limits)
        assert answered == 4
    assert spent(rule, time.time()) == 10


async def _never(_client):
    return None


async def test_a_request_larger_than_a_minutes_tokens_waits_for_an_empty_minute():
    rule = make_rule("tokens", "minute", 50)
    async with limiters(Known(rule)) as (limits,):
        large = Wish("tiny", body_bytes=4000, input_tokens=900, max_output_tokens=100)
        leave(limits, await limits.enter(KEY, large), into=900, out=10)
        with pytest.raises(ApiError, match="50 tokens a minute"):
            await limits.enter(KEY, large)
