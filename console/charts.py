"""Line and bar charts as values that templates/components/chart.html draws.

The drawing is SVG stretched over its box (`preserveAspectRatio="none"`, strokes that do not
scale); the ticks are text beside it, evenly spaced. So a chart is sharp and legible at any width,
follows the theme through CSS classes, and needs neither script nor inline style.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from django.utils.translation import gettext as _

WIDTH, HEIGHT = 1000.0, 400.0
MAX_POINTS = 300
BAR_NAMES = 12  # under so many bars each has its name; else some
LINES = 8  # colours and strokes that the stylesheet has

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line: its name and its points, ordered by x."""

    label: str
    points: Sequence[Point]
    faint: bool = False  # a raw line behind its smoothed one; not in the legend


@dataclass(frozen=True)
class DrawnSeries:
    label: str
    css: str
    path: str  # the `d` of an SVG path; empty when there is nothing to draw
    bars: list[dict[str, float]] = field(default_factory=list)
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """All that the chart component needs; `data` is JSON for reading by pointer."""

    title: str
    x_title: str
    y_title: str
    x_ticks: list[str]
    y_ticks: list[str]  # from the top down
    grid: list[float]  # y positions of the horizontal lines
    series: list[DrawnSeries]
    summary: str
    data: str
    empty: bool
    width: float = WIDTH
    height: float = HEIGHT
    csv_url: str = ""

    @property
    def has_bars(self) -> bool:
        """Its ticks then stand under the bars, not at the ends."""
        return any(line.bars for line in self.series)


def line_chart(
    *,
    title: str,
    x_title: str,
    y_title: str,
    series: Sequence[Series],
    x_max: float | None = None,
    y_from_zero: bool = False,
    csv_url: str = "",
    format_x: Callable[[float], str] | None = None,
) -> Chart:
    """A chart of up to LINES lines; `x_max` keeps room for what is still to come."""
    drawn = [one for one in series if one.points]
    xs = [x for one in drawn for x, _y in one.points]
    ys = [y for one in drawn for _x, y in one.points if math.isfinite(y)]
    if not xs or not ys:
        return _empty(title=title, x_title=x_title, y_title=y_title, csv_url=csv_url)
    x_ticks = nice_ticks(min([*xs, 0.0]), max([*xs, x_max or 0.0]), 5)
    y_ticks = nice_ticks(0.0 if y_from_zero else min(ys), max(ys), 4)
    x_low, x_high, y_low, y_high = x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1]

    def place(point: Point) -> Point:
        x, y = point
        return (
            WIDTH * (x - x_low) / (x_high - x_low),
            HEIGHT * (1 - (y - y_low) / (y_high - y_low)),
        )

    show_x = format_x or short_number
    lines: list[DrawnSeries] = []
    number = 0
    for one in drawn:
        number += not one.faint
        points = [p for p in thin(one.points) if math.isfinite(p[1])]
        lines.append(
            DrawnSeries(
                label=one.label,
                css=f"series-{min(number + one.faint, LINES)}"
                + (" chart-faint" if one.faint else ""),
                path=_path([place(p) for p in points]),
                faint=one.faint,
            )
        )
    named = [one for one in drawn if not one.faint]
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        x_ticks=[show_x(tick) for tick in x_ticks],
        y_ticks=[short_number(tick) for tick in reversed(y_ticks)],
        grid=[HEIGHT * part / (len(y_ticks) - 1) for part in range(len(y_ticks))],
        series=lines,
        summary=" ".join(_summary(one) for one in named),
        data=_data(named, x_title, (x_low, x_high), show_x),
        empty=False,
        csv_url=csv_url,
    )


def bar_chart(
    *,
    title: str,
    x_title: str,
    y_title: str,
    label: str,
    bars: Sequence[tuple[str, float]],
    csv_url: str = "",
) -> Chart:
    """One bar for each name, from zero."""
    if not any(amount for _name, amount in bars):
        return _empty(title=title, x_title=x_title, y_title=y_title, csv_url=csv_url)
    y_ticks = nice_ticks(0.0, max(amount for _name, amount in bars), 4)
    step = WIDTH / len(bars)
    drawn = [
        {
            "x": round(step * (index + 0.15), 1),
            "y": round(HEIGHT * (1 - amount / y_ticks[-1]), 1),
            "width": round(step * 0.7, 1),
            "height": round(HEIGHT * amount / y_ticks[-1], 1),
        }
        for index, (_name, amount) in enumerate(bars)
    ]
    names = [name for name, _amount in bars]
    top = max(bars, key=lambda bar: bar[1])
    points = [
        [(index + 0.5), amount, short_number(amount), name]
        for index, (name, amount) in enumerate(bars)
    ]
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        x_ticks=names if len(names) <= BAR_NAMES else _some(names),
        y_ticks=[short_number(tick) for tick in reversed(y_ticks)],
        grid=[HEIGHT * part / (len(y_ticks) - 1) for part in range(len(y_ticks))],
        series=[DrawnSeries(label=label, css="series-1", path="", bars=drawn)],
        summary=_("%(label)s: %(total)s in all, most at %(name)s (%(most)s).")
        % {
            "label": label,
            "total": short_number(sum(amount for _name, amount in bars)),
            "name": top[0],
            "most": short_number(top[1]),
        },
        data=json.dumps(
            {"x": x_title, "domain": [0, len(bars)], "series": [{"label": label, "points": points}]}
        ),
        empty=False,
        csv_url=csv_url,
    )


def stacked_chart(
    *,
    title: str,
    x_title: str,
    y_title: str,
    names: Sequence[str],
    stacks: Sequence[tuple[str, Sequence[float]]],
    csv_url: str = "",
) -> Chart:
    """Bars from zero, one for each name, each of as many parts as there are stacks (up to LINES);
    the first lies at the bottom."""
    sums = [sum(values[index] for _label, values in stacks) for index in range(len(names))]
    if not any(sums):
        return _empty(title=title, x_title=x_title, y_title=y_title, csv_url=csv_url)
    y_ticks = nice_ticks(0.0, max(sums), 4)
    step, scale = WIDTH / len(names), HEIGHT / y_ticks[-1]
    below = [0.0] * len(names)
    drawn: list[DrawnSeries] = []
    for number, (label, values) in enumerate(stacks, start=1):
        bars = []
        for index, amount in enumerate(values):
            if amount:
                bars.append(
                    {
                        "x": round(step * (index + 0.15), 1),
                        "y": round(HEIGHT - (below[index] + amount) * scale, 1),
                        "width": round(step * 0.7, 1),
                        "height": round(amount * scale, 1),
                    }
                )
            below[index] += amount
        css = f"series-{min(number, LINES)}"
        drawn.append(DrawnSeries(label=label, css=css, path="", bars=bars))
    most = max(range(len(names)), key=lambda index: sums[index])
    data = [
        {
            "label": label,
            "points": [
                [index + 0.5, amount, short_number(amount), names[index]]
                for index, amount in enumerate(values)
            ],
        }
        for label, values in stacks
    ]
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        x_ticks=list(names) if len(names) <= BAR_NAMES else _some(names),
        y_ticks=[short_number(tick) for tick in reversed(y_ticks)],
        grid=[HEIGHT * part / (len(y_ticks) - 1) for part in range(len(y_ticks))],
        series=drawn,
        summary=_("%(label)s: %(total)s in all, most at %(name)s (%(most)s).")
        % {
            "label": title,
            "total": short_number(sum(sums)),
            "name": names[most],
            "most": short_number(sums[most]),
        },
        data=json.dumps({"x": x_title, "domain": [0, len(names)], "series": data}),
        empty=False,
        csv_url=csv_url,
    )


def _some(names: Sequence[str]) -> list[str]:
    """The names with all but every so many left blank."""
    every = math.ceil(len(names) / 6)
    return [name if index % every == 0 else "" for index, name in enumerate(names)]


def smoothed(points: Sequence[Point], *, weight: float = 0.85) -> list[Point]:
    """An exponential moving average with the start-up bias taken out (as Adam does)."""
    out: list[Point] = []
    mean = 0.0
    for count, (x, y) in enumerate(points, start=1):
        mean = weight * mean + (1 - weight) * y
        out.append((x, mean / (1 - weight**count)))
    return out


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most about `limit` points that keep each stretch's lowest and highest."""
    if len(points) <= limit:
        return list(points)
    stretch = math.ceil(len(points) / (limit / 2))
    out: list[Point] = [points[0]]
    for start in range(1, len(points), stretch):
        part = points[start : start + stretch]
        kept = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        out.extend(sorted(kept))
    if out[-1] != points[-1]:
        out.append(points[-1])
    return out


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round, evenly spaced values that enclose `low` to `high`; always at least two."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * part for part in (1, 2, 2.5, 5, 10) if power * part >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(step * index, 12) for index in range(first, last + 1)]


def short_number(value: float) -> str:
    """At most four telling digits, with k, M and G for the large."""
    size = abs(value)
    for bound, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= bound:
            return f"{_trim(value / (1e3 if unit == 'k' else bound), 2)}{unit}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 1 or size == 0:
        return _trim(value, 2)
    return f"{value:.3g}".replace("e-0", "e-")


def as_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV, safe to open in a spreadsheet (no cell starts a formula)."""
    return csv_rows([header]) + csv_rows(rows)


def csv_rows(rows: Iterable[Sequence[object]]) -> str:
    """Likewise, without a header."""
    out = io.StringIO()
    csv.writer(out).writerows([_plain_cell(cell) for cell in row] for row in rows)
    return out.getvalue()


def _plain_cell(cell: object) -> object:
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{cell}"
    return cell


def _trim(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _path(points: Sequence[Point]) -> str:
    if len(points) == 1:  # a line of no length, drawn as a dot by its round cap
        x, y = points[0]
        return f"M{x:.1f} {y:.1f}h0.01"
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _summary(one: Series) -> str:
    ys = [y for _x, y in one.points if math.isfinite(y)]
    return _("%(label)s: from %(first)s to %(last)s, lowest %(low)s, highest %(high)s.") % {
        "label": one.label,
        "first": short_number(ys[0]),
        "last": short_number(ys[-1]),
        "low": short_number(min(ys)),
        "high": short_number(max(ys)),
    }


def _data(
    series: Sequence[Series],
    x_title: str,
    domain: tuple[float, float],
    show_x: Callable[[float], str],
) -> str:
    lines = [
        {
            "label": one.label,
            "points": [
                [x, y, short_number(y), show_x(x)] for x, y in thin(one.points) if math.isfinite(y)
            ],
        }
        for one in series
    ]
    return json.dumps({"x": x_title, "domain": list(domain), "series": lines})


def _empty(*, title: str, x_title: str, y_title: str, csv_url: str) -> Chart:
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        x_ticks=[],
        y_ticks=[],
        grid=[],
        series=[],
        summary="",
        data="{}",
        empty=True,
        csv_url=csv_url,
    )
