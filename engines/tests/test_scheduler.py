"""Faults inside a step, with the real model and an engine that fails on purpose."""

import queue
import threading

import pytest

from engines.backend import Delta
from engines.builtin import engine as builtin
from engines.protocol.requests import Request, Sampling
from engines.tests.make import make_spec

NO_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")


class Loop:
    """A loaded engine whose steps fail as told; results come out in order."""

    def __init__(self, folder, monkeypatch):
        self.news: queue.Queue = queue.Queue()
        spec = make_spec(model_path=str(folder), max_concurrency=4, max_context_tokens=256)
        self.engine = builtin.load(spec, publish=self._publish)
        self.scheduler = self.engine.scheduler
        runner = self.scheduler._runner
        self._run = runner.run
        monkeypatch.setattr(runner, "run", self._step)
        self.failures: dict[int, Exception] = {}  # by step
        self.steps = 0
        self.ended: Exception | None = None
        self.thread = threading.Thread(target=self._live)

    def ask(self, name, **rules):
        answer = self.make(name, **rules)
        self.scheduler.submit([answer])
        return answer

    def make(self, name, **rules):
        rules = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True} | rules
        request = Request(
            is_chat=False, model="tiny", prompts=[[5, 6, 7, 8]], sampling=Sampling(**rules)
        )
        answers, _ = self.engine.answers(request, ticket=name)
        return answers[0]

    def results(self, count):
        """How each answer ended: a reason or a refusal's code."""
        ends: dict[str, str] = {}
        while len(ends) < count:
            for answer, what in self.news.get(timeout=30):
                if not isinstance(what, Delta):
                    ends[answer.ticket] = what.code
                elif what.finish_reason:
                    ends[answer.ticket] = what.finish_reason
        return ends

    def _live(self):
        try:
            self.scheduler.run()
        except Exception as error:
            self.ended = error

    def _publish(self, news):
        self.news.put(news)

    def _step(self, work):
        self.steps += 1
        if self.steps in self.failures:
            raise self.failures[self.steps]
        return self._run(work)


@pytest.fixture
def loop(tiny_model, monkeypatch):
    made = Loop(tiny_model, monkeypatch)
    yield made
    made.scheduler.stop()
    if made.thread.is_alive():
        made.thread.join(timeout=10)


def test_out_of_memory_refuses_the_newest_alone(loop):
    loop.failures = {1: NO_MEMORY, 4: MemoryError()}
    for name in "abcd":
        loop.ask(name)
    loop.thread.start()
    assert loop.results(4) == {
        "d": "out_of_memory",
        "c": "out_of_memory",
        "a": "length",
        "b": "length",
    }
    loop.ask("e")
    assert loop.results(1) == {"e": "length"}


def test_answers_after_a_refusal_are_what_they_would_have_been(loop):
    expected = loop.ask("alone")
    loop.thread.start()
    loop.results(1)
    loop.failures = {loop.steps + 3: NO_MEMORY}
    survivor, refused = loop.make("a"), loop.make("b")
    loop.scheduler.submit([survivor, refused])  # both are there when memory runs out
    assert loop.results(2) == {"a": "length", "b": "out_of_memory"}
    assert survivor.tokens == expected.tokens


def test_a_step_that_fails_once_is_done_again(loop):
    expected = loop.ask("alone")
    loop.thread.start()
    loop.results(1)
    loop.failures = {loop.steps + 3: ValueError("unforeseen")}
    both = loop.make("a"), loop.make("b")
    loop.scheduler.submit(both)
    assert loop.results(2) == {"a": "length", "b": "length"}
    assert [each.tokens for each in both] == [expected.tokens, expected.tokens]


def test_an_engine_that_keeps_failing_gives_up(loop):
    loop.failures = {step: ValueError("always") for step in range(1, 100)}
    loop.thread.start()
    for name in "abc":
        loop.ask(name)
        assert loop.results(1) == {name: "internal_error"}
    loop.thread.join(timeout=10)
    assert isinstance(loop.ended, ValueError)


def test_a_step_that_does_not_end_shows(loop, monkeypatch):
    assert loop.scheduler.step_seconds == 0
    inside, release = threading.Event(), threading.Event()

    def hang(work):
        inside.set()
        release.wait(timeout=30)
        return loop._run(work)

    monkeypatch.setattr(loop.scheduler._runner, "run", hang)
    loop.ask("a", max_tokens=1)
    loop.thread.start()
    assert inside.wait(timeout=30)
    earlier = loop.scheduler.step_seconds
    assert 0 < earlier <= loop.scheduler.step_seconds
    release.set()
    assert loop.results(1) == {"a": "length"}


def test_a_cancelled_answer_publishes_no_more(loop):
    gone, waiting = loop.ask("gone"), [loop.ask(f"w{n}") for n in range(6)]
    loop.scheduler.cancel([gone, waiting[5]])
    loop.thread.start()
    assert set(loop.results(5)) == {"w0", "w1", "w2", "w3", "w4"}
    assert loop.scheduler.running == loop.scheduler.waiting == 0
    assert loop.scheduler.cache_used == 0
