"""What every measure is: a value whose fields are its options, and which scores an answer."""

import math
from typing import Any, Protocol

from training.metrics.texts import Normal


class OptionError(Exception):
    """An option that cannot be: its name, what is wrong, what to do."""

    def __init__(self, option: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.option, self.message, self.remedy = option, message, remedy


class Scorer(Protocol):
    """A measure of one answer by itself."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raises OptionError."""

    def score(self, expected: str, answer: str) -> dict[str, float]: ...


def check_tolerances(absolute: float, relative: float) -> None:
    for name, value in (("absolute_tolerance", absolute), ("relative_tolerance", relative)):
        if not 0 <= value < math.inf:
            raise OptionError(name, f"{value} is no tolerance.", "Give 0 or more.")


def is_near(given: float, wanted: float, absolute: float, relative: float) -> bool:
    """Within the larger of the two tolerances."""
    try:
        return math.isclose(given, wanted, rel_tol=0, abs_tol=max(absolute, relative * abs(wanted)))
    except OverflowError:  # an integer beyond any float
        return given == wanted


def normal_of(options: Any) -> Normal:
    """From a measure's own options of the same names."""
    names = ("ignore_case", "ignore_whitespace", "ignore_punctuation", "ignore_width")
    return Normal(**{name: getattr(options, name) for name in names})
