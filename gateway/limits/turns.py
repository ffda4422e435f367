"""This process's turns with Redis: one script call at a time, and what belongs to each.

A turn tells what was used, writes what is held and asks for the requests that wait (counting.lua).
Whatever is asked meanwhile goes into the next one, so that busy processes ask for many at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import redis.asyncio
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from accounts.limit_periods import period_of
from gateway.limits.counters import KEPT_SECONDS, Counter
from gateway.limits.rules import Rule

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
BUILD_SECONDS = 10.0
MOST_IN_TURN = 500
REDIS_SECONDS = 1.0

Wants = list[tuple[Counter, int]]


class Away(Exception):
    """Redis or the ledger cannot be asked."""


class _Take:
    """A request that waits for room in its counters."""

    __slots__ = ("done", "wants")

    def __init__(self, wants: Wants) -> None:
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

    def give_back(self) -> None:
        for counter, need in self.wants:
            counter.settle(need, 0)

    def fail(self) -> None:
        if not self.done.done():
            self.done.set_exception(Away())


class Turns:
    """`load_spent` is called in a thread with a rule and the start and end of its period; `warn`
    with a rule and the start of its period, when its warning is due."""

    def __init__(
        self,
        redis_url: str,
        *,
        load_spent: Callable[[Rule, float, float], int],
        warn: Callable[[Rule, float], None] | None = None,
    ) -> None:
        self.is_away = False
        self.threads = ThreadPoolExecutor(2, "gateway-limits")
        self._redis_url = redis_url
        self._load_spent = load_spent
        self._warn = warn
        self._process = uuid4().hex
        self._number = 0
        self._counters: dict[tuple[str, float], Counter] = {}
        self._takes: list[_Take] = []
        self._asked = asyncio.Event()  # somebody waits
        self._touched = asyncio.Event()  # there is something to tell
        self._unsure: tuple[bytes, list[Counter], list[_Take]] | None = None
        self._turned_at = 0.0
        self._builds: dict[str, asyncio.Task[None]] = {}

    def counter(self, rule: Rule, *, now: float) -> Counter:
        """The limit in its present period; `now` in seconds since 1970."""
        start, end = period_of(rule.period, at=now, time_zone=rule.time_zone)
        counter = self._counters.get((rule.id, start))
        if counter is None:
            counter = self._counters[rule.id, start] = Counter(rule, start=start, end=end)
        elif counter.rule is not rule:
            counter.rule = rule
        return counter

    def reserve(self, wants: Wants) -> bool:
        """Of what is stored here, in all counters or in none."""
        moment = time.monotonic()
        if moment - self._turned_at > STORE_SECONDS:
            return False
        for counter, need in wants:
            if counter.free < need:
                return False
        for counter, need in wants:
            counter.reserve(need, now=moment)
        return True

    async def ask(self, wants: Wants) -> Counter | None:
        """Room from Redis; the counter that has none, or None if all have. Raises Away."""
        if self.is_away:
            raise Away
        take, moment = _Take(wants), time.monotonic()
        for counter, need in wants:
            counter.ask(need, now=moment)
            counter.waiting += 1
        self._takes.append(take)
        self._asked.set()
        try:
            return await take.done
        except asyncio.CancelledError:
            if take.is_granted:
                take.give_back()
                self._touched.set()
            raise
        finally:
            for counter, _ in wants:
                counter.waiting -= 1

    def touch(self) -> None:
        """Something was settled: tell it in a moment."""
        self._touched.set()

    async def run(self) -> None:
        """Turn after turn until cancelled; then once more, to tell what was used."""
        client = redis.asyncio.Redis.from_url(
            self._redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        )
        try:
            while True:
                await self._pause()
                await self._try_turn(client)
        finally:
            for counter in self._counters.values():
                counter.drop_store()
            await self._try_turn(client)
            for task in self._builds.values():
                task.cancel()
            await client.aclose()

    async def _pause(self) -> None:
        """Until the next turn is due."""
        if self.is_away:
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
            if not self.is_away:
                logger.warning("limits cannot be asked, Redis is away: %s", error)
            self.is_away = True
            waiting, self._takes = self._takes, []
            for take in (*waiting, *(self._unsure[2] if self._unsure else ())):
                take.fail()
        else:
            if self.is_away:
                logger.info("limits are kept together again")
            self.is_away = False

    async def _turn(self, client: redis.asyncio.Redis, script: AsyncScript) -> None:
        """A turn whose answer was lost is told again as it was: the script knows its number."""
        if self._unsure is None:
            self._unsure = self._prepare()
        payload, counters, takes = self._unsure
        answer = await script(args=[payload])
        self._hear(orjson.loads(answer), counters, takes, client)

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
            "c": [counter.turn(now, moment=moment) for counter in numbers],
            "t": [[[numbers[counter], need] for counter, need in take.wants] for take in takes],
        }
        return orjson.dumps(said), list(numbers), takes

    def _hear(
        self,
        answer: dict[str, Any],
        counters: list[Counter],
        takes: list[_Take],
        client: redis.asyncio.Redis,
    ) -> None:
        self._unsure = None
        self._turned_at = time.monotonic()
        for counter, told in zip(counters, answer["c"], strict=True):
            if told["u"]:
                counter.used += counter.sent  # it could not be told yet
                self._build(client, counter)
                continue
            counter.room = int(told["r"])
            counter.free += int(told["l"])
            counter.scarce_seconds = float(told["a"])
            if counter.scarce_seconds >= 0 and counter.free:
                counter.drop_store()
                self._touched.set()
            if told["n"] and self._warn is not None:
                self._warn(counter.rule, counter.start)
        for take, outcome in zip(takes, answer["t"], strict=True):
            self._answer(take, int(outcome), counters)
        now = time.time()
        for name, counter in list(self._counters.items()):
            if counter.is_over(now):
                del self._counters[name]

    def _answer(self, take: _Take, outcome: int, counters: list[Counter]) -> None:
        """`outcome` as counting.lua says it."""
        if outcome == 0:
            for counter, need in take.wants:
                counter.reserved += need
            if take.done.done():  # nobody waits for it any more
                take.give_back()
                self._touched.set()
            else:
                take.done.set_result(None)
        elif take.done.done():
            return
        elif outcome > 0:
            take.done.set_result(counters[outcome - 1])
        else:
            keys = [counter.key for counter, _ in take.wants]
            build = next((self._builds[key] for key in keys if key in self._builds), None)
            if build is None:
                self._retry(take)
            else:
                build.add_done_callback(lambda done: self._built(take, done))

    def _built(self, take: _Take, done: asyncio.Task[None]) -> None:
        if done.cancelled() or done.exception() is not None:
            take.fail()
        else:
            self._retry(take)

    def _retry(self, take: _Take) -> None:
        self._takes.append(take)
        self._asked.set()

    def _build(self, client: redis.asyncio.Redis, counter: Counter) -> None:
        """From the ledger, once at a time for each. What is held is told again after it."""
        key = counter.key
        if key not in self._builds:
            task = asyncio.ensure_future(self._build_one(client, counter))
            self._builds[key] = task
            task.add_done_callback(lambda done: self._build_ended(key, done))

    async def _build_one(self, client: redis.asyncio.Redis, counter: Counter) -> None:
        loop, key = asyncio.get_running_loop(), counter.key
        rule, start, end = counter.rule, counter.start, counter.end
        async with asyncio.timeout(BUILD_SECONDS):
            spent = await loop.run_in_executor(self.threads, self._load_spent, rule, start, end)
            await client.eval(BUILD, 1, key, spent, int(end) + KEPT_SECONDS)
        counter.is_dirty = True

    def _build_ended(self, key: str, done: asyncio.Task[None]) -> None:
        del self._builds[key]
        self._touched.set()
        if not done.cancelled() and done.exception() is not None:
            logger.error("what was used of a limit cannot be told: %r", done.exception())
