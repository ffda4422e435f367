"""Running a coroutine from callbacks, without a task.

A task costs as much as a fifth of a small request. Where a coroutine nearly always goes to its end
at once (sending a piece to a client that takes it), or only waits for one event (a client that
hangs up), it is run here by hand. It must wait for asyncio's futures alone, and not ask which task
it runs in; what ASGI servers hand out does neither.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

OnEnd = Callable[[Any, BaseException | None], None]  # its result, or what it raised


def drive(coroutine: Coroutine[Any, None, Any], on_end: OnEnd) -> "Driven | None":
    """Run it as far as it goes. None if that was to its end, and `on_end` is not called then; what
    it raises at once is raised here."""
    try:
        waiting = coroutine.send(None)
    except StopIteration:
        return None
    return Driven(coroutine, waiting, on_end)


class Driven:
    """A coroutine that waits for something; `on_end` is called once it has ended."""

    __slots__ = ("_coroutine", "_is_closed", "_on_end", "_waiting")

    def __init__(self, coroutine: Coroutine[Any, None, Any], waiting: Any, on_end: OnEnd) -> None:
        self._coroutine = coroutine
        self._on_end = on_end
        self._is_closed = False
        self._wait_for(waiting)

    def close(self) -> None:
        """Give it up: it sees GeneratorExit where it waits, and `on_end` is not called."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._waiting is not None:
            self._waiting.remove_done_callback(self._step)
        self._coroutine.close()

    def _wait_for(self, waiting: Any) -> None:
        self._waiting = waiting
        if waiting is None:  # it only lets others go first
            asyncio.get_running_loop().call_soon(self._step, None)
            return
        waiting._asyncio_future_blocking = False  # as a task says that it has understood
        waiting.add_done_callback(self._step)

    def _step(self, _done: Any) -> None:
        if self._is_closed:
            return
        result, error = None, None
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as end:
            result = end.value
        except Exception as raised:  # noqa: BLE001 - told to whoever started it
            error = raised
        else:
            self._wait_for(waiting)
            return
        self._is_closed = True
        self._on_end(result, error)
