"""Engines that accept and never answer: found, left alone, reported, and tried again.

A replica is silent while requests are open on it and not one byte comes. Silence alone proves
nothing: an answer that is not streamed may take minutes. So a silent engine is asked for its
health; one that does not answer that either, twice, or says itself that it is stalled, is hung.
Its requests of which nothing had come go to another replica, and it gets none until it answers.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from gateway.directory import Directory
from gateway.routing import Router
from gateway.upstream import Address, Hung, Pool

logger = logging.getLogger(__name__)

MOST_HEALTH_BYTES = 4096
PROBES = 2  # without an answer, one after the other


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """In seconds: how often to look, how long a silence may be, how long health may take."""

    every: float = 1.0
    silence: float = 10.0
    health: float = 3.0


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
            for task in self._probes.values():
                task.cancel()

    def _look(self) -> None:
        silences = self._pool.silences()
        suspects = {
            address for address, seconds in silences.items() if seconds >= self._settings.silence
        }
        for address in suspects | set(self._hung):
            if address not in self._probes:
                task = asyncio.ensure_future(self._probe(address))
                self._probes[address] = task
                task.add_done_callback(self._forget(address))

    def _forget(self, address: Address) -> Callable[[asyncio.Task[None]], None]:
        def forget(task: asyncio.Task[None]) -> None:
            self._probes.pop(address, None)
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
                reader, writer = await asyncio.open_connection(*address)
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
