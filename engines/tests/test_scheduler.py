"""Who runs, who waits, who is sent away, and what a failing step does to whom."""

import queue
import random
import threading
import time

import pytest
import torch

from engines.backend import Delta
from engines.builtin import engine as builtin
from engines.builtin.answer import Answer
from engines.builtin.blocks import BLOCK_TOKENS, Blocks
from engines.builtin.pace import FEWEST, Pace
from engines.builtin.scheduler import FAILURES_IN_A_ROW, PREEMPTIONS
from engines.protocol.requests import Request, Sampling
from engines.tests.make import make_spec

NO_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")


class Loop:
    """A loaded engine whose steps fail as told; results come out in order."""

    def __init__(self, folder, monkeypatch, **changes):
        self.news: queue.Queue = queue.Queue()
        changes = {"max_concurrency": 4, "max_context_tokens": 256} | changes
        spec = make_spec(model_path=str(folder), **changes)
        self.engine = builtin.load(spec, publish=self.news.put)
        self.scheduler = self.engine.scheduler
        runner = self.scheduler._runner
        self._run = runner.run
        monkeypatch.setattr(runner, "run", self._step)
        self.failures: dict[int, Exception] = {}  # by step
        self.poison: dict[int, Exception] = {}  # by token that is read
        self.steps = 0
        self.tokens_read = 0
        self.ended: Exception | None = None
        self.thread = threading.Thread(target=self._live)

    def ask(self, name, **rules):
        answer = self.make(name, **rules)
        self.scheduler.submit([answer])
        return answer

    def make(self, name, **rules):
        return self.choices(name, **rules)[0]

    def choices(self, name, *, prompt=(5, 6, 7, 8), priority=0, n=1, **rules):
        rules = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True} | rules
        request = Request(
            is_chat=False,
            model="tiny",
            prompts=[list(prompt)],
            sampling=Sampling(**rules),
            priority=priority,
            choices=n,
        )
        answers, _ = self.engine.answers(request, ticket=name)
        return answers

    def alone(self, **rules):
        """What an answer that shares the engine with nobody says."""
        answer = self.ask("alone", **rules)
        self.start()
        assert self.results(1) == {"alone": "length"}
        return answer.tokens

    def start(self):
        if not self.thread.is_alive():
            self.thread.start()

    def results(self, count):
        """How each answer ended, in the order of their ends: a reason or a refusal's code."""
        ends: dict[str, str] = {}
        while len(ends) < count:
            for answer, what in self.news.get(timeout=30):
                if not isinstance(what, Delta):
                    ends[answer.ticket] = what.code
                elif what.finish_reason:
                    ends[answer.ticket] = what.finish_reason
        return ends

    def shrink(self, blocks):
        """Makes the cache smaller than the engine would; nothing may be running."""
        self.scheduler._blocks = Blocks(blocks)

    def _live(self):
        try:
            self.scheduler.run()
        except Exception as error:
            self.ended = error

    def _step(self, work):
        self.steps += 1
        if self.steps in self.failures:
            raise self.failures[self.steps]
        for token in {token for each in work for token in each.tokens} & self.poison.keys():
            raise self.poison[token]
        self.tokens_read += sum(len(each.tokens) for each in work)
        return self._run(work)


@pytest.fixture
def make_loop(tiny_model, monkeypatch):
    made = []

    def make(**changes):
        made.append(Loop(tiny_model, monkeypatch, **changes))
        return made[-1]

    yield make
    for each in made:
        each.scheduler.stop()
        if each.thread.is_alive():
            each.thread.join(timeout=10)


@pytest.fixture
def loop(make_loop):
    return make_loop()


@pytest.fixture
def wide(make_loop):
    """Eight at once, of up to 512 tokens."""
    return make_loop(max_concurrency=8, max_context_tokens=512)


def test_out_of_memory_refuses_the_newest_alone(loop):
    loop.failures = {1: NO_MEMORY, 4: MemoryError()}
    for name in "abcd":
        loop.ask(name)
    loop.start()
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
    loop.start()
    loop.results(1)
    loop.failures = {loop.steps + 3: NO_MEMORY}
    survivor, refused = loop.make("a"), loop.make("b")
    loop.scheduler.submit([survivor, refused])  # both are there when memory runs out
    assert loop.results(2) == {"a": "length", "b": "out_of_memory"}
    assert survivor.tokens == expected.tokens


def test_a_step_that_fails_once_is_done_again(loop):
    expected = loop.ask("alone")
    loop.start()
    loop.results(1)
    loop.failures = {loop.steps + 3: ValueError("unforeseen")}
    both = loop.make("a"), loop.make("b")
    loop.scheduler.submit(both)
    assert loop.results(2) == {"a": "length", "b": "length"}
    assert [each.tokens for each in both] == [expected.tokens, expected.tokens]


def test_an_engine_that_keeps_failing_gives_up(loop):
    loop.failures = {step: ValueError("always") for step in range(1, 100)}
    loop.start()
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
    loop.start()
    assert inside.wait(timeout=30)
    earlier = loop.scheduler.step_seconds
    assert 0 < earlier <= loop.scheduler.step_seconds
    release.set()
    assert loop.results(1) == {"a": "length"}


def test_a_cancelled_answer_publishes_no_more(loop):
    gone, waiting = loop.ask("gone"), [loop.ask(f"w{n}") for n in range(6)]
    loop.scheduler.cancel([gone, waiting[5]])
    loop.start()
    assert set(loop.results(5)) == {"w0", "w1", "w2", "w3", "w4"}
    assert loop.scheduler.running == loop.scheduler.waiting == 0
    assert loop.scheduler.cache_used == 0


def test_one_cancelled_amid_its_answer_is_gone_before_the_next_step(loop):
    long = loop.ask("long", max_tokens=200)
    seen = []

    def cancel_at_the_tenth(work):
        seen.append(loop.scheduler.cache_used)
        if len(seen) == 10:
            loop.scheduler.cancel([long])
        return loop._run(work)

    loop.scheduler._runner.run = cancel_at_the_tenth
    loop.ask("other", max_tokens=30)
    loop.start()
    assert loop.results(1) == {"other": "length"}
    assert len(long.tokens) == 4 + 10  # what that step brought, and no more
    assert seen[9] == 2 / loop.scheduler._blocks.count
    assert seen[10] == 1 / loop.scheduler._blocks.count


# Beginnings that somebody has read


LONG = [20 + n % 90 for n in range(3 * BLOCK_TOKENS + 10)]


def test_a_prompt_read_before_is_not_read_again(loop):
    first = loop.alone(prompt=LONG)
    read = loop.tokens_read
    again = loop.ask("again", prompt=LONG)
    loop.results(1)
    assert again.tokens == first
    assert again.cached_tokens == 3 * BLOCK_TOKENS
    assert loop.tokens_read - read == 10 + 7  # the rest of the prompt, and the answer but its last
    counts = loop.scheduler.counts
    assert (counts.prefix_queries, counts.prefix_hits) == (2 * len(LONG), 3 * BLOCK_TOKENS)


def test_a_conversation_goes_on_from_what_was_written(loop):
    first = loop.ask("first", prompt=LONG, max_tokens=50)
    loop.start()
    loop.results(1)
    further = loop.ask("further", prompt=[*first.tokens, 9, 9])
    loop.results(1)
    assert further.cached_tokens == len(first.tokens) // BLOCK_TOKENS * BLOCK_TOKENS
    assert further.cached_tokens > len(LONG)


def test_a_whole_number_of_blocks_leaves_a_token_to_be_read(loop):
    prompt = LONG[: 2 * BLOCK_TOKENS]
    first = loop.alone(prompt=prompt)
    again = loop.ask("again", prompt=prompt)
    loop.results(1)
    assert again.cached_tokens == BLOCK_TOKENS  # logits come of reading, so one block is read
    assert again.tokens == first


def test_choices_share_the_reading_of_their_prompt(loop):
    choices = loop.choices("n", prompt=LONG, n=4, temperature=1.0, seed=1)
    loop.scheduler.submit(choices)
    loop.start()
    ended = 0
    while ended < 4:
        ended += sum(what.finish_reason is not None for _, what in loop.news.get(timeout=30))
    assert len({tuple(each.tokens) for each in choices}) == 4
    assert [each.cached_tokens for each in choices] == [0] + [3 * BLOCK_TOKENS] * 3
    assert loop.tokens_read == len(LONG) + 3 * 10 + 4 * 7


def test_who_comes_while_a_beginning_is_read_waits_for_it_and_holds_nobody_up(loop, monkeypatch):
    monkeypatch.setattr(Pace, "budget", lambda self, **_: BLOCK_TOKENS)  # a block a step
    asked = [loop.make(name, prompt=[*LONG, n]) for n, name in enumerate("ab")]
    stranger = loop.make("stranger", max_tokens=1)
    loop.scheduler.submit([*asked, stranger])
    loop.start()
    ends = loop.results(3)
    assert [each.cached_tokens for each in asked] == [0, 3 * BLOCK_TOKENS]
    assert list(ends) == ["stranger", "a", "b"]


def test_if_the_reader_is_cancelled_the_next_one_reads(loop, monkeypatch):
    monkeypatch.setattr(Pace, "budget", lambda self, **_: BLOCK_TOKENS)
    expected = loop.alone(prompt=LONG)
    loop.shrink(8)  # and so forget it
    first, second = loop.make("first", prompt=LONG), loop.make("second", prompt=LONG)
    inner = loop._run

    def run(work):
        loop.scheduler.cancel([first])
        return inner(work)

    loop._run = run
    loop.scheduler.submit([first, second])
    assert loop.results(1) == {"second": "length"}
    assert second.tokens == expected
    assert second.cached_tokens == BLOCK_TOKENS  # what the first had read by then


# Order and memory


def test_the_urgent_go_first_and_equals_in_turn(make_loop):
    loop = make_loop(max_concurrency=1)
    for name, priority in [("a", 1), ("b", 0), ("c", 2), ("d", 0), ("e", -1)]:
        loop.ask(name, priority=priority)
    loop.start()
    assert list(loop.results(5)) == ["e", "b", "d", "a", "c"]


def test_an_urgent_one_takes_the_place_of_a_less_urgent_one(make_loop):
    loop = make_loop(max_concurrency=1)
    expected = loop.alone(max_tokens=60)
    inner = loop._run
    asked: list[Answer] = []

    def run(work):
        if not asked and work[0].start > 20:
            asked.append(loop.ask("urgent", priority=-1))
            loop.ask("equal", priority=0)
        return inner(work)

    loop._run = run
    slow = loop.ask("slow", max_tokens=60)
    assert list(loop.results(3)) == ["urgent", "slow", "equal"]
    assert slow.tokens == expected
    assert slow.preemptions == loop.scheduler.counts.preemptions == 1


def test_when_memory_is_short_the_last_wait_and_say_the_same(wide):
    prompts = [[10 + n, *LONG[: 7 * n]] for n in range(8)]
    rules = [
        {"prompt": prompt, "max_tokens": 150}
        | ({"temperature": 1.0, "seed": n, "top_p": 0.9} if n % 2 else {})
        for n, prompt in enumerate(prompts)
    ]
    expected = [wide.alone(**each) for each in rules]
    wide.shrink(16)  # one whole context; all together need 8 x about 6
    answers = [wide.make(str(n), **each) for n, each in enumerate(rules)]
    wide.scheduler.submit(answers)
    ends = wide.results(8)
    assert set(ends.values()) == {"length"}
    assert [each.tokens for each in answers] == expected
    assert wide.scheduler.counts.preemptions > 0
    assert max(each.preemptions for each in answers) <= PREEMPTIONS
    assert answers[0].preemptions == 0  # the first in order always goes on
    assert wide.scheduler.cache_used == 0


def test_nobody_is_sent_away_for_ever(wide):
    """Urgent ones keep coming; one that has given way often enough is left in peace."""
    wide.shrink(16)
    inner = wide._run
    pushed: list[Answer] = []

    def run(work):
        if patient.slot >= 0 and len(pushed) < 40:
            pushed.append(wide.ask(f"u{len(pushed)}", priority=-1, prompt=LONG, max_tokens=100))
        return inner(work)

    wide._run = run
    patient = wide.ask("patient", prompt=LONG, max_tokens=300)
    wide.start()
    ends = list(wide.results(1))
    while "patient" not in ends:
        ends += wide.results(1)
    assert patient.preemptions == PREEMPTIONS
    rest = len(pushed) + 1 - len(ends)
    assert len(wide.results(rest)) == rest if rest else True


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_and_goes_all_end_and_nothing_is_left(wide, seed):
    dice = random.Random(seed)
    wide.shrink(18)
    inner = wide._run
    answers: list[Answer] = []

    def run(work):
        if len(answers) < 60 and dice.random() < 0.5:
            beginning = LONG[: dice.randrange(len(LONG))]
            answers.append(
                wide.ask(
                    f"r{len(answers)}",
                    prompt=[*beginning, dice.randrange(3, 90)],
                    priority=dice.choice((0, 0, 0, 1, -1)),
                    max_tokens=dice.randrange(1, 120),
                )
            )
        if dice.random() < 0.1:
            wide.scheduler.cancel([dice.choice(answers)])
        return inner(work)

    answers.append(wide.ask("r0", max_tokens=100))
    wide._run = run
    wide.start()
    while len(answers) < 60 or not all(
        each.cancelled or len(each.tokens) == each.end for each in answers
    ):
        for _, what in wide.news.get(timeout=30):
            assert isinstance(what, Delta)
    deadline = time.monotonic() + 10
    while wide.scheduler.running or wide.scheduler.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert wide.scheduler.cache_used == 0
    assert sorted(wide.scheduler._free_slots) == list(range(8))


# Faults


@pytest.mark.parametrize("culprits", [[3], [0, 7], [1, 2, 6]])
def test_who_breaks_a_step_is_refused_and_nobody_else(wide, culprits):
    expected = wide.alone(max_tokens=20)
    wide.poison = {400: ValueError("unforeseen")}
    answers = [
        wide.make(str(n), max_tokens=20, prompt=[5, 6, 7, 400 if n in culprits else 8])
        for n in range(8)
    ]
    steps = wide.steps
    wide.scheduler.submit(answers)
    ends = wide.results(8)
    assert {name for name, end in ends.items() if end == "internal_error"} == set(
        map(str, culprits)
    )
    for n, answer in enumerate(answers):
        assert n in culprits or answer.tokens == expected
    assert wide.steps - steps < 20 + 8 * len(culprits)
    assert wide.alone(max_tokens=20) == expected


def test_a_request_that_breaks_steps_does_not_end_the_engine(loop):
    loop.poison = {400: ValueError("unforeseen")}
    loop.start()
    for n in range(2 * FAILURES_IN_A_ROW):
        loop.ask(str(n), prompt=[400])
        assert loop.results(1) == {str(n): "internal_error"}
    loop.ask("sound")
    assert loop.results(1) == {"sound": "length"}


def test_an_answer_that_cannot_take_its_token_fails_alone(loop):
    expected = loop.alone()
    answers = [loop.make(name) for name in "abc"]
    answers[1].accept = None
    loop.scheduler.submit(answers)
    assert loop.results(3) == {"a": "length", "b": "internal_error", "c": "length"}
    assert answers[0].tokens == answers[2].tokens == expected
    assert loop.scheduler.cache_used == 0


def test_a_row_that_cannot_be_sampled_fails_alone(loop):
    rules = {"temperature": 1.0, "seed": 3}
    expected = loop.alone(**rules)
    answers = [loop.make(name, **rules) for name in "abc"]
    answers[1].sampler.draw = None
    loop.scheduler.submit(answers)
    assert loop.results(3) == {"a": "length", "b": "internal_error", "c": "length"}
    assert answers[0].tokens == answers[2].tokens == expected


@pytest.mark.parametrize("error", [NO_MEMORY, ValueError("unforeseen")])
def test_a_runner_that_cannot_repeat_a_step_begins_again(loop, monkeypatch, error):
    """Modules may have taken in half of a step's tokens when it failed."""
    expected = [loop.alone(prompt=LONG[:n], max_tokens=30) for n in (9, 70)]
    monkeypatch.setattr(loop.scheduler._runner, "keeps_blocks", False)
    inner = loop._run
    spoilt: set[int] = set()

    def run(work):
        if loop.steps == fails_at:
            spoilt.update(each.slot for each in work)
            raise error
        for each in work:
            assert each.slot not in spoilt or each.start == 0
            spoilt.discard(each.slot)
        return inner(work)

    fails_at = loop.steps + 12
    loop._run = run
    answers = [loop.make(str(n), prompt=LONG[:n], max_tokens=30) for n in (9, 70, 40)]
    loop.scheduler.submit(answers)
    ends = loop.results(3)
    assert list(ends.values()).count("length") == (2 if error is NO_MEMORY else 3)
    assert [each.tokens for each in answers[:2]] == expected


def test_a_prompt_too_large_for_the_memory_left_is_read_in_smaller_parts(wide):
    prompt = [5 + n % 100 for n in range(400)]
    expected = wide.alone(prompt=prompt)
    wide.shrink(40)
    inner = wide._run

    def run(work):
        if sum(len(each.tokens) for each in work) > 150:
            raise torch.OutOfMemoryError("out of memory")
        return inner(work)

    wide._run = run
    answer = wide.ask("large", prompt=prompt)
    assert wide.results(1) == {"large": "length"}
    assert answer.tokens == expected
    assert FEWEST < 150
