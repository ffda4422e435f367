"""How much of the prompts a step reads."""

from engines.builtin.pace import FEWEST, FIRST, LONG_SECONDS, MOST, SHORT_SECONDS, Pace


def settled(*, writing_seconds, token_seconds):
    """A pace that has seen many steps of a machine with these costs."""
    pace = Pace()
    for _ in range(50):
        pace.saw(writing=8, prompt_tokens=0, seconds=writing_seconds)
        mixed = writing_seconds + 256 * token_seconds
        pace.saw(writing=8, prompt_tokens=256, seconds=mixed)
    return pace


def test_a_step_with_writers_lasts_as_long_as_it_may():
    pace = settled(writing_seconds=0.02, token_seconds=0.0005)
    few_waiting = pace.budget(writing=9, reading=1)
    assert abs(few_waiting - (SHORT_SECONDS - 0.02) / 0.0005) <= 5
    many_waiting = pace.budget(writing=9, reading=2)
    assert abs(many_waiting - (LONG_SECONDS - 0.02) / 0.0005) <= 5


def test_on_a_slow_machine_a_prompt_at_most_doubles_the_step():
    pace = settled(writing_seconds=0.6, token_seconds=0.004)
    assert abs(pace.budget(writing=9, reading=1) - 150) <= 3


def test_nobody_writing_nobody_disturbed():
    pace = settled(writing_seconds=0.05, token_seconds=0.001)
    assert abs(pace.budget(writing=0, reading=1) - LONG_SECONDS / 0.001) <= 5


def test_bounds():
    assert Pace().budget(writing=3, reading=1) == FIRST  # nothing is known yet
    slow = settled(writing_seconds=0.1, token_seconds=1.0)
    assert slow.budget(writing=9, reading=1) == FEWEST  # prompts are read, however slowly
    fast = settled(writing_seconds=0.01, token_seconds=0.000001)
    assert fast.budget(writing=9, reading=1) == MOST


def test_one_disturbed_step_teaches_little():
    pace = settled(writing_seconds=0.05, token_seconds=0.001)
    before = pace.budget(writing=9, reading=1)
    pace.saw(writing=8, prompt_tokens=256, seconds=60.0)
    assert pace.budget(writing=9, reading=1) > before / 3
    for _ in range(20):
        pace.saw(writing=8, prompt_tokens=256, seconds=0.306)
    assert abs(pace.budget(writing=9, reading=1) - before) < before / 20


def test_after_memory_ran_out_less_is_read_at_once_for_a_while():
    pace = settled(writing_seconds=0.01, token_seconds=0.00001)
    usual = pace.budget(writing=0, reading=1)
    assert pace.fell_short(4096)
    assert pace.budget(writing=0, reading=1) == 2048
    while pace.fell_short(pace.budget(writing=0, reading=1)):
        pass
    assert pace.budget(writing=0, reading=1) == FEWEST
    for _ in range(1000):
        pace.saw(writing=0, prompt_tokens=FEWEST, seconds=FEWEST * 0.00001)
    assert pace.budget(writing=0, reading=1) == usual
