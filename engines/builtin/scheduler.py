"""Continuous batching: one thread that steps all answers together.

A step: drop what was cancelled; admit what waits into free slots; compute the next token of every
answer that is being written, and up to PREFILL_TOKENS of prompts still being read; choose tokens;
publish what became text; release what ended. Running answers hold slots 0 to n - 1 without a gap:
one that ends gives its slot to the last one.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from engines.backend import Delta
from engines.builtin.answer import Answer
from engines.builtin.memory import is_out_of_memory
from engines.builtin.runner import Work
from engines.builtin.sampling import choose
from engines.protocol.errors import ApiError, failed, unavailable

PREFILL_TOKENS = 512  # of prompts in one step: bounds how long a long prompt delays the others
FAILURES_IN_A_ROW = 3  # steps; then the engine is broken and its process should be replaced

News = list[tuple[Answer, Delta | ApiError]]

logger = logging.getLogger(__name__)


class StepRunner(Protocol):
    """Our own forward pass, or transformers' modules."""

    def run(self, work: Sequence[Work]) -> torch.Tensor:
        """Float32 logits, a row for each that wants them, in the order of `work`."""
        ...


class StepCache(Protocol):
    """What a runner remembers of the sequences, and how many of them."""

    @property
    def slots(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def reuses_prefixes(self) -> bool:
        """Whether the beginning of what a slot holds may serve a sequence that begins alike."""
        ...

    def move(self, *, source: int, target: int, length: int) -> None: ...


class Scheduler:
    """`run` is the loop, on a thread of its own; the rest may be called from any thread.

    `publish` takes what each step brought, on the loop's thread, and must not block.
    """

    def __init__(
        self, *, runner: StepRunner, cache: StepCache, publish: Callable[[News], None]
    ) -> None:
        self._runner = runner
        self._cache = cache
        self._publish = publish
        self._running: list[Answer] = []  # the index is the slot
        self._waiting: deque[Answer] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._arrivals = 0
        self._failures = 0
        self._step_began_at: float | None = None  # monotonic; None between steps

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def slots(self) -> int:
        return self._cache.slots

    @property
    def cache_used(self) -> float:
        used = sum(answer.computed for answer in list(self._running))
        return used / (self._cache.slots * self._cache.context)

    @property
    def step_seconds(self) -> float:
        """How long the present step has taken so far; 0 between steps."""
        began_at = self._step_began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def submit(self, answers: Sequence[Answer]) -> None:
        with self._wake:
            for answer in answers:
                self._arrivals += 1
                answer.arrival = self._arrivals
            self._waiting.extend(answers)
            self._wake.notify()

    def cancel(self, answers: Sequence[Answer]) -> None:
        """Their slots are free before the next step computes anything; they publish no more."""
        with self._wake:
            for answer in answers:
                answer.cancelled = True
            self._wake.notify()

    def stop(self) -> None:
        """Makes `run` return after the step it is in."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def run(self) -> None:
        """Steps until stopped. Raises the last error if steps keep failing."""
        while self._wait_for_work():
            self._step_began_at = time.monotonic()
            try:
                self._step()
                self._failures = 0
            except Exception as error:
                logger.exception("a step of %s answers failed", len(self._running))
                self._survive(error)
            finally:
                self._step_began_at = None

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._running or self._waiting or self._stopping):
                self._wake.wait()
            return not self._stopping

    def _step(self) -> None:
        self._admit()
        planned = self._plan()
        if not planned:
            return
        logits = self._runner.run([work for _, work in planned])
        for answer, work in planned:
            answer.computed = work.start + len(work.tokens)
        chosen_for = [answer for answer, work in planned if work.wants_logits]
        if not chosen_for:
            return
        chosen = choose(logits, [answer.sampler for answer in chosen_for])
        news: News = []
        try:
            for answer, token in zip(chosen_for, chosen, strict=True):
                delta = answer.accept(token)
                news.append((answer, delta))
                if delta.finish_reason is not None:
                    self._release(answer)
        finally:  # should one of them fail, the others' readers learn what they gained
            self._publish(news)

    def _admit(self) -> None:
        for answer in [each for each in self._running if each.cancelled]:
            self._release(answer)
        with self._wake:
            while self._waiting and len(self._running) < self._cache.slots:
                answer = self._waiting.popleft()
                if not answer.cancelled:
                    answer.slot = len(self._running)
                    self._running.append(answer)
            if any(answer.cancelled for answer in self._waiting):
                self._waiting = deque(each for each in self._waiting if not each.cancelled)

    def _plan(self) -> list[tuple[Answer, Work]]:
        """Every answer with one token left; then prompts, first come, until the budget is spent."""
        planned = [(each, _work(each, 1)) for each in self._running if each.left == 1]
        budget = PREFILL_TOKENS
        reading = [each for each in self._running if each.left > 1]
        for answer in sorted(reading, key=lambda each: each.arrival):
            if budget < 2:  # a single token of a prompt is not worth an attention call of its own
                break
            work = _work(answer, budget)
            planned.append((answer, work))
            budget -= len(work.tokens)
        return planned

    def _release(self, answer: Answer) -> None:
        last = self._running.pop()
        if last is answer:
            return
        self._cache.move(source=last.slot, target=answer.slot, length=last.computed)
        last.slot = answer.slot
        self._running[last.slot] = last

    def _survive(self, error: Exception) -> None:
        """Refuses as few answers as may help: the newest if memory ran out, else all running."""
        if is_out_of_memory(error) and self._running:
            reading = [each for each in self._running if each.left > 1] or self._running
            refused = [max(reading, key=lambda each: each.arrival)]
            reason = unavailable(
                "The engine has no memory left for this request.",
                code="out_of_memory",
                retry_after_seconds=5,
            )
        else:
            self._failures += 1
            refused = list(self._running)
            reason = failed("The engine failed on this request.")
        for answer in refused:
            self._release(answer)
        self._publish([(answer, reason) for answer in refused])
        if self._failures >= FAILURES_IN_A_ROW:
            raise error


def _work(answer: Answer, limit: int) -> Work:
    tokens = answer.next_tokens(limit)
    return Work(
        answer.slot,
        answer.computed,
        tokens,
        wants_logits=len(tokens) == answer.left,
        adapter=answer.adapter,
    )
