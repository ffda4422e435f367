"""A JSON object compared field by field."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from common.texts import storable
from training.metrics.scorer import OptionError, check_tolerances, normal_of
from training.metrics.structures import at, look_past, same_json, structure
from training.metrics.texts import Normal


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
        check_tolerances(self.absolute_tolerance, self.relative_tolerance)
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
            has, said = at(found, path)
            right = has and not spoilt and self._same(said, value)
            scores[f"field.{storable(path)}"] = float(right)
        if scores and self.name:
            scores[self.name] = sum(scores.values()) / len(scores)
        return scores

    def _asked(self, wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for path in self.fields or wanted:
            has, value = at(wanted, path)
            if has:
                yield path, value

    def _same(self, said: Any, wanted: Any) -> bool:
        return same_json(
            said,
            wanted,
            text=look_past(self._normal),
            absolute=self.absolute_tolerance,
            relative=self.relative_tolerance,
            lenient=self.lenient_types,
        )

    @cached_property
    def _normal(self) -> Normal:
        return normal_of(self)
