"""The measures that need nothing but the expected answer and the given one. Pure.

Each is a value whose fields are its options; `score` gives numbers by name, higher is better.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Protocol

import regex
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from common.texts import storable
from training.metrics import texts
from training.metrics.texts import Normal

REGEX_SECONDS = 0.2  # for one answer; a pattern that needs longer has run away
MAX_PATTERN_CHARACTERS = 2000
MAX_OVERLAP_CHARACTERS = 20_000  # of each text
MAX_ROUGE_TOKENS = 1000  # likewise: the longest common subsequence takes their product
NUMBER = regex.compile(
    r"(?:(?<![\w.,])[-+\u2212])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)


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
            same = given is not None and same_json(given, wanted, text=_inside(self._normal))
            return {self.name: float(same)}
        return {self.name: float(self._normal.of(expected) == self._normal.of(answer))}

    @cached_property
    def _normal(self) -> Normal:
        return _normal(self)


@dataclass(frozen=True, kw_only=True)
class JsonFields:
    """A JSON object field by field: `field.<path>` for each, and their mean under `name`.

    `fields` are dotted paths; none means every key of the expected object. A path that the expected
    object lacks is not asked; one that the answer lacks is wrong. Numbers may differ by the larger
    of the two tolerances. `lenient_types` takes "1" for 1 and "true" for true.
    """

    label: ClassVar[str] = "JSON, field by field"
    name: str = "json_fields"
    fields: tuple[str, ...] = ()
    absolute_tolerance: float = 0.0
    relative_tolerance: float = 0.0
    lenient_types: bool = False
    ignore_case: bool = False
    ignore_whitespace: bool = False
    ignore_punctuation: bool = False
    ignore_width: bool = False
    forbid_other_fields: bool = False  # a key that was not expected costs the answer all its fields

    def check(self) -> None:
        _check_tolerances(self.absolute_tolerance, self.relative_tolerance)
        if len(self.fields) > 100:
            raise OptionError("fields", "More than 100 fields.", "Name those that matter.")

    def score(self, expected: str, answer: str) -> dict[str, float]:
        wanted = structure(expected)
        if not isinstance(wanted, dict):
            return {}
        given = structure(answer)
        found = given if isinstance(given, dict) else {}
        spoilt = self.forbid_other_fields and bool(found.keys() - wanted.keys())
        scores = {}
        for path, value in self._asked(wanted):
            has, said = _at(found, path)
            right = has and not spoilt and self._same(said, value)
            scores[f"field.{storable(path)}"] = float(right)
        if scores and self.name:
            scores[self.name] = sum(scores.values()) / len(scores)
        return scores

    def _asked(self, wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for path in self.fields or wanted:
            has, value = _at(wanted, path)
            if has:
                yield path, value

    def _same(self, said: Any, wanted: Any) -> bool:
        return same_json(
            said,
            wanted,
            text=_inside(self._normal),
            absolute=self.absolute_tolerance,
            relative=self.relative_tolerance,
            lenient=self.lenient_types,
        )

    @cached_property
    def _normal(self) -> Normal:
        return _normal(self)


@dataclass(frozen=True, kw_only=True)
class Rouge:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L (rouge-score's), 0 to 1, as `<name>_1`, `_2`, `_l`.

    Words are lower-cased runs of letters and digits; of Chinese and other scripts without spaces
    each character is a token. No stemming.
    """

    label: ClassVar[str] = "ROUGE"
    name: str = "rouge"

    def check(self) -> None:
        pass

    def score(self, expected: str, answer: str) -> dict[str, float]:
        found = _rouge().score(_cut(expected), _cut(answer))
        names = {"rouge1": "1", "rouge2": "2", "rougeL": "l"}
        return {f"{self.name}_{end}": float(found[key].fmeasure) for key, end in names.items()}


@dataclass(frozen=True, kw_only=True)
class Bleu:
    """Sentence BLEU with effective order (sacrebleu's), 0 to 1.

    `tokenize` is sacrebleu's: "13a" for languages with spaces, "zh" for Chinese (each Chinese
    character a token, the rest as 13a), "char", "intl". "auto" takes zh where the expected answer
    has any character of a script without spaces, else 13a.
    """

    label: ClassVar[str] = "BLEU"
    TOKENIZERS: ClassVar[tuple[str, ...]] = ("auto", "13a", "zh", "char", "intl", "none")
    name: str = "bleu"
    tokenize: str = "auto"
    ignore_case: bool = False

    def check(self) -> None:
        if self.tokenize not in self.TOKENIZERS:
            raise OptionError(
                "tokenize",
                f"There is no tokenizer {self.tokenize!r}.",
                f"Use one of {', '.join(self.TOKENIZERS)}.",
            )

    def score(self, expected: str, answer: str) -> dict[str, float]:
        way = self.tokenize
        if way == "auto":
            way = "zh" if texts.is_unspaced(expected) else "13a"
        found = _bleu(way, self.ignore_case).sentence_score(_cut(answer), [_cut(expected)])
        return {self.name: found.score / 100}


@dataclass(frozen=True, kw_only=True)
class Chrf:
    """chrF of one answer (sacrebleu's), 0 to 1: character 6-grams, whatever the language. With
    `word_order` 2 it is chrF++."""

    label: ClassVar[str] = "chrF"
    name: str = "chrf"
    word_order: int = 0
    ignore_case: bool = False

    def check(self) -> None:
        if not 0 <= self.word_order <= 4:
            raise OptionError("word_order", "It is out of range.", "Give 0 (chrF) to 4.")

    def score(self, expected: str, answer: str) -> dict[str, float]:
        scorer = _chrf(self.word_order, self.ignore_case)
        return {self.name: scorer.sentence_score(_cut(answer), [_cut(expected)]).score / 100}


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
        _check_tolerances(self.absolute_tolerance, self.relative_tolerance)
        if self.which not in ("last", "first"):
            raise OptionError("which", "No such choice.", "Use last or first.")

    def score(self, expected: str, answer: str) -> dict[str, float]:
        wanted, given = self._number(expected), self._number(answer)
        if wanted is None:
            return {}
        near = given is not None and _is_near(
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
        return _normal(self)


def _inside(normal: Normal) -> Callable[[str], str]:
    """For the strings of a JSON value, whose white space is part of them unless told otherwise."""
    return str if normal == Normal() else normal.of


def structure(text: str) -> dict[str, Any] | list[Any] | None:
    """The JSON object or list that the text is; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def same_json(given: Any, wanted: Any, **tolerance: Any) -> bool:
    """Equal as JSON, types included, up to tolerances of numbers and what `text` looks past."""
    try:
        return _same_json(given, wanted, **tolerance)
    except RecursionError:  # nested deeper than anybody means
        return False


def _same_json(
    given: Any,
    wanted: Any,
    *,
    text: Callable[[str], str] = str,
    absolute: float = 0.0,
    relative: float = 0.0,
    lenient: bool = False,
) -> bool:
    if lenient and isinstance(given, str) != isinstance(wanted, str):
        given, wanted = _plain(given), _plain(wanted)
    if isinstance(wanted, bool) or isinstance(given, bool) or wanted is None:
        return given is wanted
    if isinstance(wanted, int | float) and isinstance(given, int | float):
        exact = type(given) is type(wanted) or lenient or absolute > 0 or relative > 0
        return exact and _is_near(given, wanted, absolute, relative)
    if isinstance(wanted, str) and isinstance(given, str):
        return bool(text(given) == text(wanted))
    again: dict[str, Any] = {
        "text": text,
        "absolute": absolute,
        "relative": relative,
        "lenient": lenient,
    }
    if isinstance(wanted, list) and isinstance(given, list):
        pairs = zip(given, wanted, strict=False)
        return len(given) == len(wanted) and all(_same_json(g, w, **again) for g, w in pairs)
    if isinstance(wanted, dict) and isinstance(given, dict):
        return given.keys() == wanted.keys() and all(
            _same_json(given[key], wanted[key], **again) for key in wanted
        )
    return False


def _plain(value: Any) -> Any:
    """What a text says when it is read as JSON, if it can be."""
    if isinstance(value, str):
        try:
            return json.loads(value.strip())
        except (ValueError, RecursionError):
            return value
    return value


def _is_near(given: float, wanted: float, absolute: float, relative: float) -> bool:
    try:
        return math.isclose(given, wanted, rel_tol=0, abs_tol=max(absolute, relative * abs(wanted)))
    except OverflowError:  # an integer beyond any float
        return given == wanted


def _at(value: Any, path: str) -> tuple[bool, Any]:
    """Whether there is something at a dotted path, and what. A key with dots in it comes first."""
    if isinstance(value, dict) and path in value:
        return True, value[path]
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _check_tolerances(absolute: float, relative: float) -> None:
    for name, value in (("absolute_tolerance", absolute), ("relative_tolerance", relative)):
        if not 0 <= value < math.inf:
            raise OptionError(name, f"{value} is no tolerance.", "Give 0 or more.")


def _normal(options: Any) -> Normal:
    names = ("ignore_case", "ignore_whitespace", "ignore_punctuation", "ignore_width")
    return Normal(**{name: getattr(options, name) for name in names})


def _cut(text: str) -> str:
    return text[:MAX_OVERLAP_CHARACTERS]


class _Tokenizer:
    """As rouge-score asks for tokens."""

    def tokenize(self, text: str) -> list[str]:
        return texts.tokens(text)[:MAX_ROUGE_TOKENS]


@lru_cache(maxsize=1)
def _rouge() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Tokenizer())


@lru_cache(maxsize=16)
def _bleu(tokenize: str, ignore_case: bool) -> BLEU:
    return BLEU(tokenize=tokenize, lowercase=ignore_case, effective_order=True)


@lru_cache(maxsize=16)
def _chrf(word_order: int, ignore_case: bool) -> CHRF:
    return CHRF(word_order=word_order, lowercase=ignore_case)


@lru_cache(maxsize=64)
def _compiled(pattern: str, ignore_case: bool) -> "regex.Pattern[str]":
    return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
