"""A bound on slow work in one worker: however much of it waits, threads are left for sweeps."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SLOW = 4  # at once in a process, of its 8 threads: fetching models, asking for evaluations

_free = threading.BoundedSemaphore(SLOW)


@contextmanager
def slow() -> Iterator[bool]:
    """True while the block has one of the process's slots for slow work; False if there is none:
    leave the row as it is, a sweep comes back to it."""
    mine = _free.acquire(blocking=False)
    try:
        yield mine
    finally:
        if mine:
            _free.release()
