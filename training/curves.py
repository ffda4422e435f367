"""A run's measurements as curves of bounded length, however many rows there are.

Of a short run every measurement is a point. Of a long one the steps are cut into stretches, of each
of which the database tells mean, lowest and highest in one pass: no outlier is lost, and a hundred
thousand rows cost little more than a few thousand.
"""

import bisect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from django.db.models import (
    Avg,
    BigIntegerField,
    Count,
    F,
    FloatField,
    Max,
    Min,
    QuerySet,
)
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from training import selectors
from training.models import TrainingMetric, TrainingRun

MOST_EXACT = 1500  # measurements that are points each
STRETCHES = 250
AXES = ("step", "tokens", "time")
MEASURES = (
    "loss",
    "eval_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_bytes",
)
DETAIL = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")  # what a method may call a measure of its own

Point = tuple[float, float]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """One measure, by x. `points` are all measurements, or of each stretch the lowest and the
    highest, within it; `means` are the stretches' means, or all measurements."""

    points: Sequence[Point] = ()
    means: Sequence[Point] = ()


@dataclass(frozen=True)
class Curves:
    """A run's curves by step. `clock` has tokens trained on, and hours since the first measurement,
    at steps in order."""

    by_name: Mapping[str, Curve] = field(default_factory=dict)
    details: Sequence[str] = ()  # measures of the method's own
    clock: Sequence[tuple[float, float, float]] = ()

    def of(self, name: str, *, axis: str = "step") -> Curve:
        """Empty for what was not measured. `axis` is one of AXES."""
        curve = self.by_name.get(name, Curve())
        if axis == "step":
            return curve
        return Curve(self._along(curve.points, axis), self._along(curve.means, axis))

    def _along(self, points: Sequence[Point], axis: str) -> list[Point]:
        steps = [tick[0] for tick in self.clock]
        values = [tick[AXES.index(axis)] for tick in self.clock]
        return [(_between(steps, values, x), y) for x, y in points]


def read(run: TrainingRun) -> Curves:
    """All that was measured of the run up to now."""
    rows = selectors.list_metrics(run)
    count = rows.aggregate(count=Count("pk"))["count"]
    if not count:
        return Curves()
    names = _detail_names(rows)
    if count <= MOST_EXACT:
        return _exact(rows, names)
    return _by_stretch(rows, names)


def _detail_names(rows: QuerySet[TrainingMetric]) -> list[str]:
    """A method tells the same measures at every step."""
    told = rows.exclude(details={}).order_by("-step").values_list("details", flat=True).first()
    return sorted(name for name in told or {} if DETAIL.fullmatch(name))


def _exact(rows: QuerySet[TrainingMetric], names: Sequence[str]) -> Curves:
    found = list(rows.values("step", "at", "tokens_total", "details", *MEASURES))
    curves = {}
    for name in MEASURES:
        points = [(float(row["step"]), float(row[name])) for row in found if row[name] is not None]
        curves[name] = Curve(points, points)
    for name in names:
        points = [
            (float(row["step"]), float(row["details"][name]))
            for row in found
            if name in row["details"]
        ]
        curves[name] = Curve(points, points)
    return Curves(curves, names, list(_clock(found)))


def _by_stretch(rows: QuerySet[TrainingMetric], names: Sequence[str]) -> Curves:
    bounds = rows.aggregate(first=Min("step"), last=Max("step"))
    begun = rows.aggregate(at=Min("at"))["at"]
    step = Cast(F("step"), BigIntegerField())
    width = bounds["last"] - bounds["first"] + 1
    sources: dict[str, Any] = {name: F(name) for name in MEASURES}
    sources |= {name: Cast(KT(f"details__{name}"), FloatField()) for name in names}
    asked: dict[str, Any] = {}
    for name, source in sources.items():
        asked |= {
            f"{name}_of_low": Min(source),
            f"{name}_of_high": Max(source),
            f"{name}_of_mean": Avg(source),
        }
    found = list(
        rows.order_by()
        .annotate(stretch=(step - bounds["first"]) * STRETCHES / width)
        .values("stretch")
        .annotate(
            first=Min("step"),
            step_last=Max("step"),
            told_at=Max("at"),
            tokens=Max("tokens_total"),
            **asked,
        )
        .order_by("stretch")
    )
    ticks = [
        {"step": row["step_last"], "at": row["told_at"], "tokens_total": row["tokens"]}
        for row in found
    ]
    start = {"step": bounds["first"], "at": begun, "tokens_total": None}
    return Curves(
        {name: _curve(found, name) for name in sources}, names, list(_clock([start, *ticks]))
    )


def _curve(found: Sequence[Row], name: str) -> Curve:
    """Of each stretch two points, in the order in which the curve goes on."""
    rows = [row for row in found if row[f"{name}_of_mean"] is not None]
    means = [((row["first"] + row["step_last"]) / 2, float(row[f"{name}_of_mean"])) for row in rows]
    falls = [after[1] < before[1] for before, after in pairwise(means)]
    points: list[Point] = []
    for row, falling in zip(rows, [*falls, falls[-1] if falls else False], strict=True):
        ends = [float(row[f"{name}_of_low"]), float(row[f"{name}_of_high"])]
        if ends[0] == ends[1]:
            points.append((float(row["first"]), ends[0]))
            continue
        if falling:
            ends.reverse()
        points += [(float(row["first"]), ends[0]), (float(row["step_last"]), ends[1])]
    return Curve(points, means)


def _clock(rows: Sequence[Row]) -> Iterator[tuple[float, float, float]]:
    """A measurement on held-out lines tells no tokens: those before it hold."""
    begun, tokens = rows[0]["at"], 0
    for row in rows:
        tokens = row["tokens_total"] if row["tokens_total"] is not None else tokens
        yield float(row["step"]), float(tokens), (row["at"] - begun).total_seconds() / 3600


def _between(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Straight lines between the known; `xs` ascend."""
    place = bisect.bisect_left(xs, x)
    if place == len(xs):
        return ys[-1]
    if place == 0 or xs[place] == x:
        return ys[place]
    share = (x - xs[place - 1]) / (xs[place] - xs[place - 1])
    return ys[place - 1] + share * (ys[place] - ys[place - 1])
