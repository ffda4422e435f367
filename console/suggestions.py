"""On how many accelerators a run would do well: each count's best place, and which to take."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from common.errors import DomainError
from training.plans import RunOption, TrainingPlan

COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Suggestion:
    """`option` is the best place for this count; `is_best` the count to take unless in a hurry."""

    accelerators: int
    option: RunOption
    is_best: bool = False


def suggest(plan: Callable[[int], TrainingPlan]) -> list[Suggestion]:
    """Counts for which there is a place now, the cheapest marked; the fewest where nothing is priced.
    Nothing for one count alone: there is no choice then."""
    found: list[Suggestion] = []
    for count in COUNTS:
        try:
            options = plan(count).options
        except DomainError:
            continue
        fitting = [option for option in options if option.fits]
        if fitting:
            found.append(Suggestion(count, fitting[0]))
    if len(found) < 2:
        return []
    priced = [one for one in found if one.option.price is not None]
    best = min(priced, key=_price) if priced else found[0]
    return [replace(one, is_best=one is best) for one in found]


def _price(one: Suggestion) -> float:
    return float(one.option.price.high) if one.option.price is not None else float("inf")
