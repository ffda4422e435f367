"""Engines that accept and never answer: found, left alone, reported, and tried again.

A replica is silent while requests are open on it and not one byte comes. Silence alone proves
nothing: an answer that is not streamed may take minutes. So a silent engine is asked for its
health; one that does not answer that either, twice, or says itself that it is stalled, is hung.
Its requests of which nothing had come go to another replica, and it gets none until it answers.

One that is well and goes on being silent is asked for a single token. An engine at work on long
answers that are not streamed gives it, and is silent no more; one that has stopped working does not.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import orjson

from common.ids import new_id
from gateway.directory import Directory
from gateway.routing import Router
from gateway.upstream import Address, Hung, Pool, UpstreamError, build_request

logger = logging.getLogger(__name__)

MOST_HEALTH_BYTES = 4096
PROBES = 2  # without an answer, one after the other


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """In seconds: how often to look, how long a silence may be, how long health may take, and
    after how long a silence an engine that is well is asked for a token."""

    every: float = 1.0
    silence: float = 10.0
    health: float = 3.0
    proof: float = 60.0


class Watch:
    """`run` looks after all engines that this process has requests on."""

    def __init__(
        self,
        pool: Pool,
        router: Router,
        directory: Directory,
        settings: WatchSettings | None = None,
    ) -> None:
        self._pool = pool
        self._router = router
        self._directory = directory
        self._settings = settings or WatchSettings()
        self._probes: dict[Address, asyncio.Task[None]] = {}
        self._proofs: dict[Address, asyncio.Task[None]] = {}
        self._hung: dict[Address, str] = {}  # and the replica's id

    def silent(self) -> dict[str, float]:
        """By replica id: for how many seconds, of those that have been silent for long."""
        names = {}
        for address, seconds in self._pool.silences().items():
            replica_id = self._directory.find_replica(address)
            if seconds >= self._settings.silence and replica_id is not None:
                names[replica_id] = seconds
        return names

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._settings.every)
                self._look()
        finally:
            for task in (*self._probes.values(), *self._proofs.values()):
                task.cancel()

    def _look(self) -> None:
        silences = self._pool.silences()
        suspects = {
            address for address, seconds in silences.items() if seconds >= self._settings.silence
        }
        for address in suspects | set(self._hung):
            self._begin(self._probe, address, self._probes)
        for address in suspects - set(self._hung):
            if silences[address] >= self._settings.proof:
                self._begin(self._prove, address, self._proofs)

    def _begin(
        self,
        work: Callable[[Address], Coroutine[None, None, None]],
        address: Address,
        under_way: dict[Address, asyncio.Task[None]],
    ) -> None:
        """One at a time for each engine."""
        if address not in under_way:
            task = asyncio.ensure_future(work(address))
            under_way[address] = task
            task.add_done_callback(self._forget(address, under_way))

    def _forget(
        self, address: Address, under_way: dict[Address, asyncio.Task[None]]
    ) -> Callable[[asyncio.Task[None]], None]:
        def forget(task: asyncio.Task[None]) -> None:
            under_way.pop(address, None)
            if not task.cancelled() and task.exception() is not None:
                logger.error("probing %s failed: %r", address, task.exception())

        return forget

    async def _probe(self, address: Address) -> None:
        for _ in range(PROBES):
            if await self._is_alive(address):
                self._found_alive(address)
                return
        replica_id = self._directory.find_replica(address)
        if replica_id is None:  # not routed any more: its agent has seen it, and ends it
            self._found_alive(address)
        elif address not in self._hung:
            logger.warning("replica %s accepts and does not answer: it is left alone", replica_id)
            self._hung[address] = replica_id
            self._router.hung(replica_id)
        self._pool.fail_unanswered(address, lambda: Hung("the engine does not answer any more"))

    async def _prove(self, address: Address) -> None:
        """Ask for one token. Nothing is done with the answer: the pool has heard of the engine."""
        found = self._directory.find_target(address)
        if found is None:
            return
        target, replica = found
        body = {"model": target.served_model_name, "prompt": "Hello", "max_tokens": 1}
        exchange = self._pool.exchange(address)
        try:
            request = build_request(
                path="/v1/completions",
                host=address,
                token=replica.token,
                request_id=str(new_id()),
                body=orjson.dumps(body),
            )
            await exchange.start(request)
            while await exchange.read():
                pass
        except UpstreamError as error:
            logger.info("replica %s gives no proof: %s", replica.id, error)
        finally:
            exchange.finish()

    def _found_alive(self, address: Address) -> None:
        replica_id = self._hung.pop(address, None)
        if replica_id is not None:
            logger.info("replica %s answers again, or is gone", replica_id)
            self._router.recovered(replica_id)
            self._directory.on_routes()  # whoever waits for it may go on

    async def _is_alive(self, address: Address) -> bool:
        """False if it lets us wait or calls itself stalled. One that refuses to be connected to
        does not hang: whoever sends it something is told at once."""
        writer = None
        try:
            async with asyncio.timeout(self._settings.health):
                reader, writer = await asyncio.open_connection(*address, ssl=self._pool.tls)
                writer.write(
                    f"GET /health HTTP/1.1\r\nhost: {address[0]}:{address[1]}\r\n"
                    "connection: close\r\n\r\n".encode()
                )
                said = await reader.read(MOST_HEALTH_BYTES)
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            if writer is not None:
                writer.close()
        return b'"stalled"' not in said
