"""Measures that say right or wrong of a whole answer: exact match, pattern, number, contents."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import regex

from training.metrics.scorer import OptionError, check_tolerances, is_near, normal_of
from training.metrics.structures import look_past, same_json, structure
from training.metrics.texts import Normal

REGEX_SECONDS = 0.2  # for one answer; a pattern that needs longer has run away
MAX_PATTERN_CHARACTERS = 2000
NUMBER = regex.compile(
    r"(?:(?<![\w.,])[-+\u2212])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """1 where the answer is what was expected.

    Where a JSON object or list is expected, parsed JSON is compared, unless `as_text`: the order of
    keys and white space do not count, types do (1 is not "1", nor true).
    """

    label: ClassVar[str] = "Exact match"
    name: str = "exact_match"
    ignore_case: bool = False
    ignore_whitespace: bool = False
    ignore_punctuation: bool = False
    ignore_width: bool = False
    as_text: bool = False

    def check(self) -> None:
        pass

    def score(self, expected: str, answer: str) -> dict[str, float]:
        wanted = None if self.as_text else structure(expected)
        if wanted is not None:
            given = structure(answer)
            same = given is not None and same_json(given, wanted, text=look_past(self._normal))
            return {self.name: float(same)}
        return {self.name: float(self._normal.of(expected) == self._normal.of(answer))}

    @cached_property
    def _normal(self) -> Normal:
        return normal_of(self)


@dataclass(frozen=True, kw_only=True)
class Regex:
    """1 where the pattern is found in the answer.

    With `compare` the pattern is looked for in both, and what its first group (or all of it)
    caught must be the same: "answer: (\\d+)". Python's syntax; a pattern that takes longer than a
    fifth of a second on an answer counts as not found.
    """

    label: ClassVar[str] = "Regular expression"
    name: str = "regex"
    pattern: str = ""
    ignore_case: bool = False
    whole: bool = False  # the whole answer must match, white space around it aside
    compare: bool = False

    def check(self) -> None:
        if not self.pattern:
            raise OptionError("pattern", "There is no pattern.", "Give a regular expression.")
        if len(self.pattern) > MAX_PATTERN_CHARACTERS:
            raise OptionError(
                "pattern", "It is too long.", f"Use at most {MAX_PATTERN_CHARACTERS} characters."
            )
        try:
            _compiled(self.pattern, self.ignore_case)
        except regex.error as error:
            raise OptionError("pattern", f"It cannot be read: {error}.", "Mend it.") from None

    def score(self, expected: str, answer: str) -> dict[str, float]:
        said = self._caught(answer)
        if not self.compare:
            return {self.name: float(said is not None)}
        return {self.name: float(said is not None and said == self._caught(expected))}

    def _caught(self, text: str) -> str | None:
        pattern = _compiled(self.pattern, self.ignore_case)
        look = pattern.fullmatch if self.whole else pattern.search
        try:
            found = look(text.strip(), timeout=REGEX_SECONDS)
        except TimeoutError:
            return None
        if found is None:
            return None
        return str(found.group(1 if pattern.groups else 0) or "")


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """1 where the answer's number is the expected one's, give or take the larger tolerance.

    The number is the `last` or `first` in each text, thousands' commas allowed.
    """

    label: ClassVar[str] = "Number within a tolerance"
    name: str = "numeric"
    absolute_tolerance: float = 0.0
    relative_tolerance: float = 0.0
    which: str = "last"

    def check(self) -> None:
        check_tolerances(self.absolute_tolerance, self.relative_tolerance)
        if self.which not in ("last", "first"):
            raise OptionError("which", "No such choice.", "Use last or first.")

    def score(self, expected: str, answer: str) -> dict[str, float]:
        wanted, given = self._number(expected), self._number(answer)
        if wanted is None:
            return {}
        near = given is not None and is_near(
            given, wanted, self.absolute_tolerance, self.relative_tolerance
        )
        return {self.name: float(near)}

    def _number(self, text: str) -> float | None:
        found = NUMBER.findall(text)
        if not found:
            return None
        said = found[-1 if self.which == "last" else 0].replace(",", "").replace("\u2212", "-")
        return float(said)


@dataclass(frozen=True, kw_only=True)
class Contains:
    """1 where the answer contains the expected one, or all (`any_of_them`: one) of `texts`."""

    label: ClassVar[str] = "Contains"
    name: str = "contains"
    texts: tuple[str, ...] = ()
    any_of_them: bool = False
    ignore_case: bool = True
    ignore_whitespace: bool = True
    ignore_punctuation: bool = False
    ignore_width: bool = True

    def check(self) -> None:
        if len(self.texts) > 100 or not all(self.texts):
            raise OptionError("texts", "They are not as they must be.", "Give up to 100 texts.")

    def score(self, expected: str, answer: str) -> dict[str, float]:
        given = self._normal.of(answer)
        found = [self._normal.of(text) in given for text in self.texts or (expected,)]
        return {self.name: float(any(found) if self.any_of_them else all(found))}

    @cached_property
    def _normal(self) -> Normal:
        return normal_of(self)


@lru_cache(maxsize=64)
def _compiled(pattern: str, ignore_case: bool) -> "regex.Pattern[str]":
    return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
