from pathlib import Path

from trainer.progress import ProgressWriter, read_progress
from trainer.pulse import ALIVE_SECONDS, PATIENCE, Pulse


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def alive(path: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["patience_seconds"]) for line in read_progress(path)[0]]


def test_a_long_run_between_two_lines_tells_that_it_lives(tmp_path: Path) -> None:
    path, clock = tmp_path / "progress.jsonl", Clock()
    with ProgressWriter(path, attempt=1) as progress:
        pulse = Pulse(progress, clock=clock)
        for _ in range(5):
            clock.now += 3.0
            pulse.beat(7)
        assert alive(path) == [(7, 3.0 * PATIENCE)]  # after twelve seconds, once
        pulse.told()
        clock.now += ALIVE_SECONDS - 1
        pulse.beat(7)
        assert len(alive(path)) == 1
        assert pulse.patience_seconds == (ALIVE_SECONDS - 1) * PATIENCE


def test_what_is_expected_to_take_long_is_told_before_and_says_nothing_of_the_pace(
    tmp_path: Path,
) -> None:
    path, clock = tmp_path / "progress.jsonl", Clock()
    with ProgressWriter(path, attempt=1) as progress:
        pulse = Pulse(progress, clock=clock)
        clock.now += 0.5
        pulse.beat(1)
        pulse.expect(1, seconds=2.0)
        assert alive(path) == []
        pulse.expect(1, seconds=500.0)
        assert alive(path) == [(1, 500.0)]
        clock.now += 400.0
        pulse.skip()
        clock.now += 0.5
        pulse.beat(2)
        assert pulse.patience_seconds == 0.5 * PATIENCE
