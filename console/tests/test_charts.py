import itertools
import json

import pytest

from console import charts


def test_nice_ticks_enclose_the_values_and_are_evenly_spaced() -> None:
    ticks = charts.nice_ticks(0.13, 3.9, 4)
    assert ticks[0] <= 0.13
    assert ticks[-1] >= 3.9
    steps = {round(b - a, 9) for a, b in itertools.pairwise(ticks)}
    assert len(steps) == 1


def test_nice_ticks_of_a_flat_line_still_have_a_range() -> None:
    assert len(charts.nice_ticks(2.0, 2.0, 4)) >= 2


def test_line_chart_keeps_room_for_the_steps_to_come() -> None:
    chart = charts.line_chart(
        title="Loss",
        x_title="Step",
        y_title="Loss",
        series=[charts.Series("Loss", [(0, 3.0), (50, 1.0)])],
        x_max=100,
    )
    assert chart.x_ticks == ["0", "20", "40", "60", "80", "100"]
    assert chart.series[0].path.startswith("M0.0 ")
    assert chart.series[0].path.split("L")[1].startswith("500.0 ")
    assert "3" in chart.summary
    assert json.loads(chart.data)["domain"] == [0.0, 100.0]


def test_thin_keeps_the_extremes() -> None:
    points = [(float(x), float((x * 7919) % 1000)) for x in range(10_000)]
    kept = charts.thin(points, 300)
    assert len(kept) <= 302
    assert max(y for _x, y in kept) == max(y for _x, y in points)
    assert min(y for _x, y in kept) == min(y for _x, y in points)
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]


def test_smoothing_a_constant_changes_nothing() -> None:
    assert all(
        y == pytest.approx(2.0) for _x, y in charts.smoothed([(float(x), 2.0) for x in range(9)])
    )


def test_a_chart_without_points_is_empty() -> None:
    chart = charts.line_chart(title="Loss", x_title="Step", y_title="Loss", series=[])
    assert chart.empty
    bars = charts.bar_chart(title="T", x_title="Day", y_title="n", label="n", bars=[("a", 0.0)])
    assert bars.empty


def test_csv_cells_never_start_a_formula() -> None:
    text = charts.as_csv(["name"], [["=1+1"], ["plain"], [-3]])
    assert text.splitlines() == ["name", "'=1+1", "plain", "-3"]
