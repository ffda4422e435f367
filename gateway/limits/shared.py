"""Limits that all gateway processes keep together, exactly.

What was used stands in Redis, one hash for each limit and period, with what each process holds of
the rest: for its open requests, and in store for those to come. A request that finds enough in
store waits for nothing; all else asks Redis (turns.py). Where room becomes scarce nothing is stored
any more, and whoever is refused while others may still give back what they had in store waits for
them a moment: nobody is refused while there is room.

A process that dies holds nothing after turns.ALIVE_SECONDS; what it had told stays. Numbers that
Redis lost are built again from the ledger. While Redis is away requests are let in within this
process's own limits, or refused, as configured.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from accounts.limit_periods import period_of
from gateway.directory import Key
from gateway.limits import refusals
from gateway.limits.counters import key_of
from gateway.limits.limiter import Limiter, Ticket, Wish
from gateway.limits.rules import Demand, Rule, Rules
from gateway.limits.turns import TURN_SECONDS, Away, Turns, Wants

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.5  # how long others may take to give back what they have in store
REFRESH_SECONDS = 5.0


class Ledger(Protocol):
    """Where limits come from. Called from threads; raises any database error."""

    def load_rules(self) -> Mapping[str, Rules]:
        """By organization id."""
        ...

    def load_spent(self, rule: Rule, start: float, end: float) -> int:
        """What was used of a limit in a period, in its whole units."""
        ...


class SharedLimits:
    """A Limiter. `inner` guards this process besides, always. `warn` is called with a rule and the
    start of its period when its warning is due; it must not wait. Setting `changed` makes it read
    the rules anew at once."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        redis_url: str,
        inner: Limiter,
        fails_open: bool = True,
        warn: Callable[[Rule, float], None] | None = None,
    ) -> None:
        self.changed = asyncio.Event()
        self.turns = Turns(redis_url, load_spent=ledger.load_spent, warn=warn)
        self._ledger = ledger
        self._inner = inner
        self._fails_open = fails_open
        self._rules: Mapping[str, Rules] = {}
        self._are_known = False

    async def enter(self, key: Key, wish: Wish) -> Ticket:
        ticket = await self._inner.enter(key, wish)
        try:
            if not self._are_known and not self._fails_open:
                raise refusals.away()
            book = self._rules.get(key.organization_id)
            rules = book.applying(key.id, wish.model_name) if book is not None else ()
            if book is not None and rules:
                ticket.model_name = wish.model_name
                ticket.holds = await self._reserve(rules, _demand(book, wish))
        except Away:
            if not self._fails_open:
                self._leave_inner(ticket)
                raise refusals.away() from None
        except BaseException:
            self._leave_inner(ticket)
            raise
        if ticket.holds:
            ticket.headers += refusals.headers((each for each, _ in ticket.holds), now=time.time())
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
                book = self._rules.get(ticket.key.organization_id) or Rules()
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
            self.turns.touch()

    async def refresh(self) -> None:
        """Read the rules anew. Raises what the ledger raises."""
        loop = asyncio.get_running_loop()
        self._rules = await loop.run_in_executor(self.turns.threads, self._ledger.load_rules)
        self._are_known = True

    async def run(self) -> None:
        loops = (self._inner.run, self._follow)
        beside = [asyncio.ensure_future(each()) for each in loops]
        try:
            await self.turns.run()
        finally:
            for each in beside:
                each.cancel()

    async def _follow(self) -> None:
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

    async def _reserve(self, rules: tuple[Rule, ...], demand: Demand) -> Wants:
        """Room in all or in none. Raises ApiError (429), Away."""
        patience = time.monotonic() + PATIENCE_SECONDS
        while True:
            now = time.time()
            wants: Wants = []
            for rule in rules:
                counter = self.turns.counter(rule, now=now)
                wants.append((counter, counter.need_of(demand)))
            if self.turns.reserve(wants):
                return wants
            refusing = await self.turns.ask(wants)
            if refusing is None:
                return wants
            is_new = 0 <= refusing.scarce_seconds < PATIENCE_SECONDS
            if not is_new or time.monotonic() > patience:
                need = next(need for counter, need in wants if counter is refusing)
                raise refusals.refused(refusing, need=need, now=now)
            await asyncio.sleep(TURN_SECONDS)

    def _leave_inner(self, ticket: Ticket) -> None:
        self._inner.leave(
            ticket, is_counted=False, input_tokens=0, cached_input_tokens=0, output_tokens=0
        )


def _demand(book: Rules, wish: Wish) -> Demand:
    return book.demand(
        wish.model_name,
        body_bytes=wish.body_bytes,
        expected_input_tokens=wish.input_tokens,
        max_output_tokens=wish.max_output_tokens,
        answers=wish.answers,
        now=time.time(),
    )


def spent_key(rule: Rule, *, at: float) -> str:
    """Where Redis keeps what is used of a limit in the period of a moment, for readers."""
    start, _ = period_of(rule.period, at=at, time_zone=rule.time_zone)
    return key_of(rule, start)
