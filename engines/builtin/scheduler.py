"""Continuous batching: one thread that steps all answers together.

A step: drop what was cancelled; admit what waits; compute the next token of every answer that is
being written, and a part of the prompts still being read; choose tokens; publish what became
text; release what ended.

Order is by priority, then by arrival, in everything. An answer is admitted when a slot is free
and its prompt fits into blocks of the cache that nobody holds; what another answer has read of
the same prompt is used and not read again, and who would read what somebody is just reading waits
for it. Written tokens take further blocks one by one. When there are none, the last in order gives
all its blocks back and waits to be read again, from the tokens it has: its reader sees a pause.
The cache holds at least one whole context, so the first in order always goes on. An answer that was
sent away PREEMPTIONS times comes back only when all it may ever need is free, and then stays.

A step that fails is tried again in halves, and who fails alone is refused alone.
"""

import heapq
import logging
import math
import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import replace

from engines.backend import Counts, Delta
from engines.builtin.answer import Answer
from engines.builtin.blocks import BLOCK_TOKENS, Blocks, blocks_for, extend_keys
from engines.builtin.memory import is_out_of_memory
from engines.builtin.pace import Pace
from engines.builtin.runner import StepRunner, Work
from engines.builtin.scoring import TOKENS_A_STEP, Told, tell
from engines.protocol.errors import ApiError, failed, unavailable

PREEMPTIONS = 3  # of one answer; after that it is left in peace
FAILURES_IN_A_ROW = 3  # of the engine itself; then it is broken and its process should be replaced

News = list[tuple[Answer, Delta | ApiError]]
Planned = list[tuple[Answer, Work]]

logger = logging.getLogger(__name__)


class Scheduler:
    """`run` is the loop, on a thread of its own; the rest may be called from any thread.

    `publish` takes what each step brought, on the loop's thread, and must not block.
    """

    def __init__(
        self,
        *,
        runner: StepRunner,
        blocks: Blocks,
        slots: int,
        publish: Callable[[News], None],
    ) -> None:
        self.slots = slots
        self.counts = Counts()
        self._runner = runner
        self._blocks = blocks
        self._publish = publish
        self._pace = Pace()
        self._running: list[Answer] = []
        self._free_slots = list(range(slots))  # a heap
        self._waiting: list[Answer] = []  # in order
        self._wake = threading.Condition()  # guards `_waiting` and `_arrivals`
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
    def cache_used(self) -> float:
        return self._blocks.used

    @property
    def step_seconds(self) -> float:
        """How long the present step has taken so far; 0 between steps."""
        began_at = self._step_began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def submit(self, answers: Sequence[Answer]) -> None:
        """Each answer's `end` must be at most what the cache holds."""
        with self._wake:
            for answer in answers:
                self._arrivals += 1
                answer.arrival = self._arrivals
                insort(self._waiting, answer, key=_order)
            self._wake.notify()

    def cancel(self, answers: Sequence[Answer]) -> None:
        """What they hold is free before the next step computes anything; they publish no more."""
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
        """Steps until stopped. Raises the last error if the engine keeps failing."""
        while self._wait_for_work():
            self._step_began_at = time.monotonic()
            try:
                self._step()
            finally:
                self._step_began_at = None

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._running or self._waiting or self._stopping):
                self._wake.wait()
            return not self._stopping

    def _step(self) -> None:
        for answer in [each for each in self._running if each.cancelled]:
            self._release(answer)
        self._admit()
        planned = self._plan()
        if not planned:
            return
        began_at = time.monotonic()
        try:
            told = self._compute(planned)
        except Exception as error:
            logger.exception("a step of %s answers failed", len(planned))
            planned, told = self._recover(planned, error)
        else:
            self._failures = 0
            reading = sum(len(work.tokens) for _, work in planned if len(work.tokens) > 1)
            writing = sum(len(work.tokens) == 1 for _, work in planned)
            seconds = time.monotonic() - began_at
            self._pace.saw(writing=writing, prompt_tokens=reading, seconds=seconds)
        self._keep(planned, told)

    # Who runs

    def _admit(self) -> None:
        with self._wake:
            self._waiting = [each for each in self._waiting if not each.cancelled]
            in_order = list(self._waiting)
        being_read = self._being_read()
        for answer in in_order:
            usable = answer.reusable_keys
            known = self._blocks.find(usable) if self._runner.keeps_blocks else []
            following = usable[len(known) :][:1]
            if following and being_read.get(following[0], math.inf) <= answer.priority:
                continue  # it soon begins further on
            if not self._enter(answer, known):
                return  # nobody overtakes it
            with self._wake:
                self._waiting.remove(answer)
            for key in answer.keys[len(known) :]:
                being_read.setdefault(key, answer.priority)

    def _being_read(self) -> dict[bytes, int]:
        """Keys of the blocks that prompts are about to fill, and how urgent the prompts are."""
        if not self._runner.keeps_blocks:
            return {}
        return {
            key: each.priority
            for each in self._running
            if each.left > 1
            for key in each.keys[each.computed // BLOCK_TOKENS :]
        }

    def _enter(self, answer: Answer, known: list[int]) -> bool:
        """Gives it a slot and blocks for all its tokens, if need be those of less urgent ones."""
        stays = answer.preemptions >= PREEMPTIONS
        more = blocks_for(answer.end if stays else len(answer.tokens)) - len(known)
        while True:
            # A block more for each that runs, lest the next tokens send somebody away again.
            wanted = more + (0 if stays else len(self._running))
            if self._free_slots and self._blocks.can_take(wanted, known=known):
                break
            less_urgent = [each for each in self._movable() if each.priority > answer.priority]
            theirs = sum(len(each.blocks) for each in less_urgent)
            if not less_urgent or self._blocks.unheld + theirs < more:
                return False
            self._preempt(max(less_urgent, key=_order))
        answer.blocks = self._blocks.take(more, known=known)
        answer.slot = heapq.heappop(self._free_slots)
        answer.computed = len(known) * BLOCK_TOKENS
        answer.remembered = len(known)
        self._runner.place(answer.slot, answer.blocks, first=0)
        self._running.append(answer)
        if not answer.preemptions:
            answer.cached_tokens = answer.computed
            self.counts.prefix_queries += len(answer.tokens)
            self.counts.prefix_hits += answer.computed
        return True

    def _movable(self) -> list[Answer]:
        return [each for each in self._running if each.preemptions < PREEMPTIONS]

    def _preempt(self, answer: Answer) -> None:
        self._release(answer)
        answer.computed = 0
        answer.preemptions += 1
        self.counts.preemptions += 1
        with self._wake:
            insort(self._waiting, answer, key=_order)

    def _release(self, answer: Answer) -> None:
        self._running.remove(answer)
        self._blocks.give_back(answer.blocks)
        heapq.heappush(self._free_slots, answer.slot)
        answer.blocks, answer.slot = [], -1

    # What they do

    def _plan(self) -> Planned:
        """Every answer with one token left; then prompts until the budget is spent."""
        in_order = sorted(self._running, key=_order)
        planned = [
            (each, _work(each, 1))
            for each in in_order
            if each.slot >= 0 and each.left == 1 and self._has_room(each)
        ]
        reading = [each for each in in_order if each.slot >= 0 and each.left > 1]
        budget = self._pace.budget(writing=len(planned), reading=len(reading))
        scored = TOKENS_A_STEP
        for answer in reading:
            limit = min(budget, scored) if answer.scores else budget
            if limit < 2:  # a single token of a prompt is not worth an attention call of its own
                continue
            work = _work(answer, limit)
            planned.append((answer, work))
            budget -= len(work.tokens)
            scored -= work.rows if work.scores else 0
        return planned

    def _has_room(self, answer: Answer) -> bool:
        """Whether it has a block for its next token, after others made room if need be."""
        if answer.computed < len(answer.blocks) * BLOCK_TOKENS:
            return True
        while not self._blocks.can_take(1):
            last = max(self._movable(), key=_order)
            self._preempt(last)
            if last is answer:
                return False
        block = self._blocks.take(1)
        self._runner.place(answer.slot, block, first=len(answer.blocks))
        answer.blocks += block
        return True

    def _compute(self, planned: Planned) -> list[Told]:
        """A token for each that wants one. May be repeated: only the cache has changed."""
        return tell(self._runner.run([work for _, work in planned]), planned)

    def _keep(self, planned: Planned, told: Sequence[Told]) -> None:
        """Notes what was computed and tells the readers what they gained."""
        news: News = []
        for (answer, work), own in zip(planned, told, strict=True):
            answer.computed = work.start + len(work.tokens)
            self._remember(answer)
            answer.hear(work.start, own.scored)
            if own.chosen is None and (answer.writes or answer.left):
                continue
            try:
                delta = answer.ended() if own.chosen is None else answer.accept(own.chosen)
            except Exception:
                logger.exception("an answer could not take its token")
                news.append((answer, failed("The engine failed on this request.")))
                self._release(answer)
                continue
            news.append((answer, delta))
            if delta.finish_reason is not None:
                self._release(answer)
        if news:
            self._publish(news)

    def _remember(self, answer: Answer) -> None:
        full = answer.computed // BLOCK_TOKENS
        if full == answer.remembered or not self._runner.keeps_blocks:
            return
        extend_keys(answer.keys, answer.tokens[: answer.computed], salt=answer.salt)
        for index in range(answer.remembered, full):
            self._blocks.remember(answer.blocks[index], answer.keys[index])
        answer.remembered = full

    # What goes wrong

    def _recover(self, planned: Planned, error: Exception) -> tuple[Planned, list[Told]]:
        """Refuses as few as may help; gives what could be computed of the others."""
        if is_out_of_memory(error):
            self._save_memory(planned)
            if not self._runner.keeps_blocks:
                for answer, _ in planned:
                    answer.computed = 0  # what was kept is half changed: from the beginning
            return [], []
        saved: Planned = []
        told: list[Told] = []
        culprits: list[Answer] = []
        if not self._runner.keeps_blocks:
            planned = [(answer, _whole(work, answer.tokens)) for answer, work in planned]
        groups = _halves(planned)
        tries = 4 * len(planned).bit_length()  # two culprits among many can be told apart
        while groups:
            group = groups.pop()
            try:
                if tries > 0:
                    tries -= 1
                    told += self._compute(group)
                    saved += group
                    continue
            except Exception:
                logger.exception("again, with %s of them", len(group))
                if len(group) > 1:
                    groups += _halves(group)
                    continue
            culprits += [answer for answer, _ in group]
        self._refuse(culprits, failed("The engine failed on this request."))
        if not saved:
            self._check(error)
        return saved, told

    def _save_memory(self, planned: Planned) -> None:
        """The next step reads less at once; if that cannot help, the last in order is refused."""
        reading = sum(len(work.tokens) for _, work in planned if len(work.tokens) > 1)
        if self._pace.fell_short(reading):
            return
        candidates = [answer for answer, work in planned if len(work.tokens) > 1]
        candidates = candidates or [answer for answer, _ in planned]
        reason = unavailable(
            "The engine has no memory left for this request.",
            code="out_of_memory",
            retry_after_seconds=5,
        )
        self._refuse([max(candidates, key=_order)], reason)

    def _refuse(self, answers: Sequence[Answer], reason: ApiError) -> None:
        for answer in answers:
            self._release(answer)
        if answers:
            self._publish([(answer, reason) for answer in answers])

    def _check(self, error: Exception) -> None:
        """Nobody could be helped. Raises if the engine cannot even read a token of nobody's."""
        if not self._blocks.can_take(1):
            return
        slot, block = heapq.heappop(self._free_slots), self._blocks.take(1)
        try:
            self._runner.place(slot, block, first=0)
            self._runner.run([Work(slot, 0, [0], wants_logits=True)])
            self._failures = 0
        except Exception:
            logger.exception("the engine fails on its own")
            self._failures += 1
        self._blocks.give_back(block)
        heapq.heappush(self._free_slots, slot)
        if self._failures >= FAILURES_IN_A_ROW:
            raise error


def _order(answer: Answer) -> tuple[int, int]:
    return answer.priority, answer.arrival


def _work(answer: Answer, limit: int) -> Work:
    tokens = answer.next_tokens(limit)
    return Work(
        answer.slot,
        answer.computed,
        tokens,
        wants_logits=len(tokens) == answer.left and answer.writes,
        scores=answer.scores,
        adapter=answer.adapter,
    )


def _whole(work: Work, tokens: Sequence[int]) -> Work:
    """The same work for a slot that has forgotten what it held."""
    return replace(work, start=0, tokens=tokens[: work.start + len(work.tokens)])


def _halves(planned: Planned) -> list[Planned]:
    middle = len(planned) // 2
    return [half for half in (planned[middle:], planned[:middle]) if half]
