"""The built-in engine as a process: `python -m engines.transformers_server SPEC_FILE`.

Opens its port at once and answers 503 until the model is loaded.
"""

import asyncio
import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import process
from engines.adapters import Adapters
from engines.backend import Counts, Delta, Generation, Status
from engines.host import ServeSpec
from engines.protocol.dialect import Dialect
from engines.protocol.embeddings import EmbeddingRequest
from engines.protocol.errors import unavailable
from engines.protocol.requests import Request, Sampling

if TYPE_CHECKING:  # torch takes seconds to import: the engine's thread does it, the port is open
    from engines.builtin.answer import Answer
    from engines.builtin.engine import Engine
    from engines.builtin.lora import Adapter
    from engines.builtin.scheduler import News

FULL_RETRY_SECONDS = 2
STALL_SECONDS = 120.0  # far beyond any step: 512 prompt tokens of a large model on a slow CPU


class BuiltinBackend:
    """Joins the event loop, where requests live, and the thread that computes their answers."""

    def __init__(self, spec: ServeSpec) -> None:
        self._spec = spec
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arriving = 0  # requests that a thread prepares, not yet among the waiting
        self.adapters: Adapters[Adapter] = Adapters(
            base=spec.served_model_name,
            folders=spec.adapter_folders,
            most=spec.max_adapters,
            most_waiting=spec.max_waiting,
            read=self._read_adapter,
        )

    @property
    def status(self) -> Status:
        if self._engine is None:
            return Status.LOADING
        stalled = self._engine.scheduler.step_seconds > STALL_SECONDS
        return Status.STALLED if stalled else Status.READY

    @property
    def fingerprint(self) -> str:
        return self._engine.fingerprint if self._engine else ""

    @property
    def models(self) -> dict[str, str | None]:
        return self.adapters.models

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect if self._engine else Dialect()

    @property
    def sampling_defaults(self) -> Sampling:
        return self._engine.defaults if self._engine else Sampling()

    @property
    def max_context_tokens(self) -> int:
        return self._engine.context if self._engine else self._spec.max_context_tokens

    @property
    def running(self) -> int:
        return self._engine.scheduler.running if self._engine else 0

    @property
    def waiting(self) -> int:
        return self._engine.scheduler.waiting if self._engine else 0

    @property
    def cache_used(self) -> float:
        return self._engine.scheduler.cache_used if self._engine else 0.0

    @property
    def counts(self) -> Counts:
        return self._engine.scheduler.counts if self._engine else Counts()

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._live, args=[self._loop, ended], daemon=True).start()
        try:
            await ended
        finally:
            if self._engine:
                self._engine.scheduler.stop()

    async def generate(self, request: Request) -> Generation:
        engine = self._loaded()
        generation, answers = await self._begin(engine, request.model, engine.answers, request)
        thought = engine.text.thought_before(answers[0].tokens) if request.is_chat else "none"
        generation.in_thought = thought == "opened"
        return generation

    async def embed(self, request: EmbeddingRequest) -> Generation:
        engine = self._loaded()
        generation, _ = await self._begin(engine, request.model, engine.readings, request)
        return generation

    def _loaded(self) -> "Engine":
        if self._engine is None:
            raise unavailable("The model is still loading.", code="loading", retry_after_seconds=2)
        return self._engine

    async def _begin(
        self, engine: "Engine", model: str, make: Callable[..., Any], request: Any
    ) -> "tuple[Generation, Sequence[Answer]]":
        """Submits what `make` makes of a request, off the event loop."""
        scheduler = engine.scheduler
        open_now = scheduler.running + scheduler.waiting + self._arriving
        if open_now >= scheduler.slots + self._spec.max_waiting:
            raise unavailable(
                "The queue is full.", code="queue_full", retry_after_seconds=FULL_RETRY_SECONDS
            )
        ticket = _Ticket()
        use = None
        if model != self._spec.served_model_name:
            use = await self.adapters.use(model)
        self._arriving += 1
        try:
            answers, prompt_tokens = await asyncio.to_thread(
                make, request, ticket=ticket, adapter=use.weights if use else None
            )
        except BaseException:
            if use is not None:
                use.close()
            raise
        finally:
            self._arriving -= 1
        ticket.generation = Generation(
            prompt_tokens=prompt_tokens,
            choices=len(answers),
            cancel=lambda: scheduler.cancel(answers),
            close=use.close if use is not None else None,
        )
        scheduler.submit(answers)
        return ticket.generation, answers

    def _read_adapter(self, folder: Path) -> "Adapter":
        return self._loaded().read_adapter(folder)

    def _live(self, loop: asyncio.AbstractEventLoop, ended: "asyncio.Future[None]") -> None:
        """The engine's thread: loads, then steps until stopped or broken."""

        def publish(news: "News") -> None:
            loop.call_soon_threadsafe(_deliver, news)

        try:
            engine: Engine = importlib.import_module("engines.builtin.engine").load(
                self._spec, publish=publish
            )
            self._engine = engine
            engine.scheduler.run()
        except Exception as error:  # noqa: BLE001 (handed to `run`, which raises it)
            loop.call_soon_threadsafe(_end, ended, error)


class _Ticket:
    """Leads from an answer back to the request it is for."""

    generation: Generation


def _deliver(news: "News") -> None:
    for answer, what in news:
        generation: Generation = answer.ticket.generation
        if isinstance(what, Delta):
            if what.finish_reason is not None and answer.choice == 0:
                generation.cached_tokens += answer.cached_tokens
            generation.feed(what)
        else:
            generation.fail(what)


def _end(ended: "asyncio.Future[None]", error: Exception) -> None:
    if not ended.done():
        ended.set_exception(error)


if __name__ == "__main__":
    process.end(process.main(sys.argv[1:], BuiltinBackend))
