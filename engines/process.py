"""The life of an engine process: read the spec, open the port, load, answer, drain, end.

Exit status: 0 drained after SIGTERM or SIGINT; 1 could not start or broke (the last log line
says why); 2 a spec or command line that cannot be followed.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop

from engines.backend import Backend
from engines.host import ServeSpec, SpecError
from engines.server import EngineServer

logger = logging.getLogger("engines")

FLUSH_SECONDS = 2  # what written answers get to reach their clients at the end


class CannotServe(Exception):
    """This engine will never serve this spec, for a reason a person can read; `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str], make_backend: Callable[[ServeSpec], Backend]) -> int:
    """Runs one engine to its end and returns its exit status."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    if len(arguments) != 1:
        logger.error("usage: python -m engines.<engine> SPEC_FILE")
        return 2
    try:
        spec = ServeSpec.from_json(Path(arguments[0]).read_bytes())
    except (OSError, SpecError) as error:
        logger.error("cannot serve (bad_spec): %s", error)
        return 2
    try:
        _pin(spec)
        listener = _listen(spec)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(spec, listener, make_backend(spec)))
    except CannotServe as error:
        logger.error("cannot serve (%s): %s", error.code, error)
        return 1


def end(status: int) -> None:
    """Ends the process now: a thread that still loads weights cannot be asked to stop."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _pin(spec: ServeSpec) -> None:
    if not spec.cores or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, spec.cores)
    except OSError as error:
        raise CannotServe("cores_missing", f"cores {list(spec.cores)}: {error}") from None


def _listen(spec: ServeSpec) -> socket.socket:
    try:
        listener = socket.create_server((spec.host, spec.port), backlog=2048)
    except OSError as error:
        raise CannotServe("port_taken", f"{spec.host}:{spec.port}: {error}") from None
    # Connections inherit it. Without it the kernel holds back a stream's second small piece for
    # up to 40 ms, in the hope of sending more at once.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _serve(spec: ServeSpec, listener: socket.socket, backend: Backend) -> int:
    application = EngineServer(spec=spec, backend=backend)
    config = uvicorn.Config(
        application,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than a client's pool keeps a connection idle
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    server = _Server(config, application=application, drain_seconds=spec.drain_seconds)
    engine = asyncio.create_task(backend.run())
    engine.add_done_callback(lambda _: server.leave())
    logger.info("listening on %s:%s, loading %s", spec.host, spec.port, spec.model_path)
    await server.serve(sockets=[listener])
    if not engine.done():
        engine.cancel()
        await asyncio.wait([engine])
        logger.info("drained")
        return 0
    if (error := engine.exception()) is None:
        return 0
    if isinstance(error, CannotServe):
        raise error
    logger.error("the engine broke", exc_info=error)
    return 1


class _Server(uvicorn.Server):
    """Drains on the first signal, leaves at once on the second."""

    def __init__(
        self, config: uvicorn.Config, *, application: EngineServer, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._application = application
        self._drain_seconds = drain_seconds
        self._drain: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._signalled, sig)

    def leave(self) -> None:
        self.should_exit = True

    def _signalled(self, sig: int) -> None:
        if self._drain is not None:
            self.leave()
            return
        logger.info("%s: finishing %s open", signal.Signals(sig).name, self._application.open)
        self._drain = asyncio.create_task(self._finish_open())

    async def _finish_open(self) -> None:
        self._application.draining = True
        deadline = self._loop.time() + self._drain_seconds
        while self._application.open and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        self._application.abandon()
        self.leave()
