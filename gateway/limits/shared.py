"""Limits that all gateway processes keep together, exactly.

What was used stands in Redis, one hash for each limit and period, with what each process holds of
the rest: for its open requests, and in store for those to come. A request that finds enough in
store waits for nothing. All else goes through turns: one script call at a time for the process,
which tells what was used, writes what is held and asks for the requests that wait (counting.lua).
Where room becomes scarce nothing is stored any more, and whoever is refused while others may still
give back what they had in store waits for them a moment: nobody is refused while there is room.

A process that dies holds nothing after `ALIVE_SECONDS`; what it had told stays. Numbers that Redis
lost are built again from the ledger. While Redis is away requests are let in within this process's
own limits, or refused, as configured.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import orjson
import redis.asyncio
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from gateway.directory import Key
from gateway.limits import refusals
from gateway.limits.counters import KEPT_SECONDS, Counter, key_of
from gateway.limits.limiter import Limiter, Ticket, Wish
from gateway.limits.rules import Demand, Rule, Rules, period_of

logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("counting.lua").read_text()
# What was used before a counter was there; who comes first writes it.
BUILD = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'spent', ARGV[1])
  redis.call('EXPIREAT', KEYS[1], ARGV[2])
end
"""
ALIVE_SECONDS = 15
STORE_SECONDS = 5.0  # without a turn for so long, what is stored here is not ours any more
TURN_SECONDS = 0.02  # between turns that only settle
IDLE_SECONDS = 0.25  # until what is stored and not asked for is given back
RENEW_SECONDS = 3.0
PATIENCE_SECONDS = 0.5  # how long others may take to give back what they have in store
BUILD_SECONDS = 10.0
MOST_IN_TURN = 500
REFRESH_SECONDS = 5.0
REDIS_SECONDS = 1.0


class Ledger(Protocol):
    """Where limits come from. Called from threads; raises any database error."""

    def load_rules(self) -> Mapping[str, Rules]:
        """By organization id."""
        ...

    def load_spent(self, rule: Rule, start: float, end: float) -> int:
        """What was used of a limit in a period, in its whole units."""
        ...


class Away(Exception):
    """Redis or the ledger cannot be asked."""


class _Take:
    """A request that waits for room in its counters."""

    __slots__ = ("done", "wants")

    def __init__(self, wants: list[tuple[Counter, int]]) -> None:
        self.wants = wants
        self.done: asyncio.Future[Counter | None] = asyncio.get_running_loop().create_future()

    @property
    def is_granted(self) -> bool:
        done = self.done
        return (
            done.done()
            and not done.cancelled()
            and done.exception() is None
            and done.result() is None
        )


class SharedLimits:
    """A Limiter. `inner` guards this process besides, always. `warn` is called with a rule and the
    start of its period when its warning is due; it must not wait."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        redis_url: str,
        inner: Limiter,
        fails_open: bool = True,
        warn: Callable[[Rule, float], None] | None = None,
    ) -> None:
        self.rules: Mapping[str, Rules] | None = None  # None: not known yet
        self.changed = asyncio.Event()  # to be set when rules are not what they were
        self._ledger = ledger
        self._redis_url = redis_url
        self._inner = inner
        self._fails_open = fails_open
        self._warn = warn
        self._process = uuid4().hex
        self._number = 0
        self._counters: dict[tuple[str, float], Counter] = {}
        self._takes: list[_Take] = []
        self._asked = asyncio.Event()  # somebody waits
        self._touched = asyncio.Event()  # there is something to tell
        self._unsure: tuple[bytes, list[Counter], list[_Take]] | None = None
        self._turned_at = 0.0
        self._is_away = False
        self._builds: dict[str, asyncio.Task[None]] = {}
        self._builder = ThreadPoolExecutor(2, "gateway-limits")

    async def enter(self, key: Key, wish: Wish) -> Ticket:
        ticket = await self._inner.enter(key, wish)
        if self.rules is None and not self._fails_open:
            self._leave_inner(ticket)
            raise refusals.away()
        book = (self.rules or {}).get(key.organization_id)
        if book is None:
            return ticket
        rules = book.applying(key.id, wish.model_name)
        if not rules:
            return ticket
        now = time.time()
        demand = book.demand(
            wish.model_name,
            body_bytes=wish.body_bytes,
            expected_input_tokens=wish.input_tokens,
            max_output_tokens=wish.max_output_tokens,
            answers=wish.answers,
            now=now,
        )
        ticket.model_name = wish.model_name
        try:
            ticket.holds = await self._reserve(rules, demand)
        except Away:
            if not self._fails_open:
                self._leave_inner(ticket)
                raise refusals.away() from None
        except BaseException:
            self._leave_inner(ticket)
            raise
        ticket.headers += refusals.headers((each for each, _ in ticket.holds), now=now)
        return ticket

    def leave(
        self,
        ticket: Ticket,
        *,
        is_counted: bool,
        input_tokens: int,
        cached_input_tokens: int,
        output_tokens: int,
    ) -> None:
        self._inner.leave(
            ticket,
            is_counted=is_counted,
            input_tokens=input_tokens,
            cached_input_tokens=cached_input_tokens,
            output_tokens=output_tokens,
        )
        for counter, need in ticket.holds:
            measure, used = counter.rule.measure, 0
            if measure == "requests":
                used = int(is_counted)
            elif measure == "tokens":
                used = input_tokens + output_tokens
            elif measure == "money":
                book = (self.rules or {}).get(ticket.key.organization_id) or Rules()
                used = book.cost(
                    ticket.model_name,
                    input_tokens=input_tokens,
                    cached=cached_input_tokens,
                    output_tokens=output_tokens,
                    now=time.time(),
                )
            counter.settle(need, used)
        if ticket.holds:
            ticket.holds = ()
            self._touched.set()

    async def refresh(self) -> None:
        """Read the rules anew. Raises what the ledger raises."""
        loop = asyncio.get_running_loop()
        self.put(await loop.run_in_executor(self._builder, self._ledger.load_rules))

    def put(self, rules: Mapping[str, Rules]) -> None:
        """These are the rules now; counters go on with what they counted."""
        self.rules = rules
        present = {rule.id: rule for book in rules.values() for rule in book.rules}
        for (rule_id, _), counter in self._counters.items():
            rule = present.get(rule_id)
            if rule is not None:
                counter.rule = rule

    async def run(self) -> None:
        """Turn after turn until cancelled; then once more, to tell what was used."""
        client = redis.asyncio.Redis.from_url(
            self._redis_url,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
        )
        beside = [asyncio.ensure_future(each()) for each in (self._inner.run, self._follow)]
        try:
            while True:
                await self._pause()
                await self._try_turn(client)
        finally:
            for each in beside:
                each.cancel()
            for counter in self._counters.values():
                counter.drop_store()
            await self._try_turn(client)
            for task in self._builds.values():
                task.cancel()
            self._builder.shutdown(wait=False, cancel_futures=True)
            await client.aclose()

    async def _follow(self) -> None:
        """Read the rules whenever `changed` is set, and every few seconds."""
        is_away = False
        while True:
            self.changed.clear()
            try:
                await self.refresh()
                is_away = False
            except Exception as error:
                if not is_away:
                    logger.exception("cannot read limits; going on with the last: %s", error)
                is_away = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), REFRESH_SECONDS)

    async def _reserve(self, rules: tuple[Rule, ...], demand: Demand) -> list[tuple[Counter, int]]:
        """Room in all or in none. Raises ApiError (429), Away."""
        patience = time.monotonic() + PATIENCE_SECONDS
        while True:
            now = time.time()
            wants = [
                (counter, counter.need_of(demand))
                for counter in [self._counter(rule, now) for rule in rules]
            ]
            moment = time.monotonic()
            is_ours = moment - self._turned_at < STORE_SECONDS
            if is_ours and all(counter.free >= need for counter, need in wants):
                for counter, need in wants:
                    counter.reserve(need, now=moment)
                return wants
            if self._is_away:
                raise Away
            refusing = await self._ask(wants, now=moment)
            if refusing is None:
                return wants
            is_new = 0 <= refusing.scarce_seconds < PATIENCE_SECONDS
            if not is_new or time.monotonic() > patience:
                need = next(need for counter, need in wants if counter is refusing)
                raise refusals.refused(refusing, need=need, now=now)
            await asyncio.sleep(TURN_SECONDS)

    async def _ask(self, wants: list[tuple[Counter, int]], *, now: float) -> Counter | None:
        """Room from Redis; the counter that has none, None if all have. Raises Away."""
        take = _Take(wants)
        for counter, need in wants:
            counter.ask(need, now=now)
            counter.waiting += 1
        self._takes.append(take)
        self._asked.set()
        try:
            return await take.done
        except asyncio.CancelledError:
            if take.is_granted:
                _give_back(take)
                self._touched.set()
            raise
        finally:
            for counter, _ in wants:
                counter.waiting -= 1

    def _counter(self, rule: Rule, now: float) -> Counter:
        start, end = period_of(rule.period, at=now, time_zone=rule.time_zone)
        counter = self._counters.get((rule.id, start))
        if counter is None:
            counter = self._counters[rule.id, start] = Counter(rule, start=start, end=end)
        return counter

    async def _pause(self) -> None:
        """Until the next turn is due."""
        if self._is_away:
            await asyncio.sleep(IDLE_SECONDS)
            return
        stored = any(counter.free for counter in self._counters.values())
        holds = any(counter.reserved for counter in self._counters.values())
        longest = IDLE_SECONDS if stored else RENEW_SECONDS if holds else None
        waits = [asyncio.ensure_future(each.wait()) for each in (self._asked, self._touched)]
        try:
            await asyncio.wait(waits, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            if not self._asked.is_set() and self._touched.is_set():
                await asyncio.wait(waits[:1], timeout=TURN_SECONDS)
        finally:
            for each in waits:
                each.cancel()

    async def _try_turn(self, client: redis.asyncio.Redis) -> None:
        try:
            await self._turn(client, client.register_script(SCRIPT))
        except (RedisError, OSError) as error:
            if not self._is_away:
                logger.warning("limits cannot be asked, Redis is away: %s", error)
            self._is_away = True
            waiting, self._takes = self._takes, []
            for take in waiting:
                _fail(take)
            if self._unsure is not None:
                for take in self._unsure[2]:
                    _fail(take)
        else:
            if self._is_away:
                logger.info("limits are kept together again")
            self._is_away = False

    async def _turn(self, client: redis.asyncio.Redis, script: AsyncScript) -> None:
        if self._unsure is None:
            self._unsure = self._prepare()
        payload, counters, takes = self._unsure
        answer = orjson.loads(await script(args=[payload]))
        self._unsure = None
        self._turned_at = time.monotonic()
        for counter, told in zip(counters, answer["c"], strict=True):
            counter.room = int(told["r"])
            counter.free += int(told["l"])
            counter.scarce_seconds = float(told["a"])
            if told["u"]:
                counter.used += counter.sent  # it could not be told yet
                self._build(client, counter)
            elif counter.scarce_seconds >= 0 and counter.free:
                counter.drop_store()
                self._touched.set()
            if told["n"] and self._warn is not None:
                self._warn(counter.rule, counter.start)
        for take, outcome in zip(takes, answer["t"], strict=True):
            self._answer(take, int(outcome), counters)
        self._forget()

    def _prepare(self) -> tuple[bytes, list[Counter], list[_Take]]:
        """The next turn: what it says, of which counters, and for whom."""
        now, moment = time.time(), time.monotonic()
        if moment - self._turned_at > STORE_SECONDS:
            for counter in self._counters.values():
                counter.drop_store()
        waiting = [take for take in self._takes if not take.done.done()]
        takes, self._takes = waiting[:MOST_IN_TURN], waiting[MOST_IN_TURN:]
        if not self._takes:
            self._asked.clear()
        self._touched.clear()
        numbers: dict[Counter, int] = {}
        for take in takes:
            for counter, _ in take.wants:
                counter.free = 0  # what is left of it is asked for anew
                numbers.setdefault(counter, len(numbers) + 1)
        for counter in self._counters.values():
            if moment - counter.asked_at > IDLE_SECONDS or now >= counter.end:
                counter.drop_store()
            if counter.is_dirty or counter.used:
                numbers.setdefault(counter, len(numbers) + 1)
        self._number += 1
        said = {
            "p": self._process,
            "s": self._number,
            "ttl": ALIVE_SECONDS,
            "c": [counter.turn(now) for counter in numbers],
            "t": [[[numbers[counter], need] for counter, need in take.wants] for take in takes],
        }
        return orjson.dumps(said), list(numbers), takes

    def _answer(self, take: _Take, outcome: int, counters: list[Counter]) -> None:
        if outcome == 0:
            for counter, need in take.wants:
                counter.reserved += need
            if take.done.done():  # nobody waits for it any more
                _give_back(take)
                self._touched.set()
            else:
                take.done.set_result(None)
        elif outcome > 0:
            if not take.done.done():
                take.done.set_result(counters[outcome - 1])
        elif not take.done.done():  # a counter is being built
            builds = [
                self._builds[counter.key]
                for counter, _ in take.wants
                if counter.key in self._builds
            ]
            for build in builds[:1]:
                build.add_done_callback(lambda done: self._built(take, done))
            if not builds:
                self._takes.append(take)
                self._asked.set()

    def _built(self, take: _Take, done: asyncio.Task[None]) -> None:
        if take.done.done():
            return
        if done.cancelled() or done.exception() is not None:
            _fail(take)
        else:
            self._takes.append(take)
            self._asked.set()

    def _build(self, client: redis.asyncio.Redis, counter: Counter) -> None:
        """From the ledger, once at a time for each. What is held is told again after it."""
        key = counter.key
        if key not in self._builds:
            task = asyncio.ensure_future(self._build_one(client, counter))
            self._builds[key] = task
            task.add_done_callback(lambda done: self._build_ended(key, done))

    def _build_ended(self, key: str, done: asyncio.Task[None]) -> None:
        del self._builds[key]
        self._touched.set()
        if not done.cancelled() and done.exception() is not None:
            logger.error("what was used of a limit cannot be told: %r", done.exception())

    async def _build_one(self, client: redis.asyncio.Redis, counter: Counter) -> None:
        rule, start, end = counter.rule, counter.start, counter.end
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(BUILD_SECONDS):
            spent = await loop.run_in_executor(
                self._builder, self._ledger.load_spent, rule, start, end
            )
            counter.is_dirty = True
            expires = int(end) + KEPT_SECONDS
            await client.eval(BUILD, 1, key_of(rule, start), spent, expires)  # type: ignore[misc]

    def _forget(self) -> None:
        now = time.time()
        for name, counter in list(self._counters.items()):
            if counter.is_over(now):
                del self._counters[name]

    def _leave_inner(self, ticket: Ticket) -> None:
        self._inner.leave(
            ticket, is_counted=False, input_tokens=0, cached_input_tokens=0, output_tokens=0
        )


def _give_back(take: _Take) -> None:
    for counter, need in take.wants:
        counter.settle(need, 0)


def _fail(take: _Take) -> None:
    if not take.done.done():
        take.done.set_exception(Away())


def spent_key(rule: Rule, *, at: float) -> str:
    """Where Redis keeps what is used of a limit in the period of a moment, for readers."""
    start, _ = period_of(rule.period, at=at, time_zone=rule.time_zone)
    return key_of(rule, start)
