"""How far ahead each model is, as a picture: one line for an interval, one dot for the difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from console import charts
from training.metrics import measures
from training.models import Evaluation

WIDTH = 1000.0
VERDICTS: dict[str, str | Promise] = {
    "better": gettext_lazy("better"),
    "worse": gettext_lazy("worse"),
    "unclear": gettext_lazy("not told apart"),
}
LOOKS = {"better": ("good", "up"), "worse": ("bad", "down"), "unclear": ("muted", "dot")}


@dataclass(frozen=True)
class Cell:
    """A model's figure under one metric, and its lead on the baseline if it has one."""

    text: str
    model_name: str
    lead: str = ""
    verdict: str = ""
    css: str = ""


@dataclass(frozen=True)
class Figure:
    """One measure, model by model, in the order of the evaluation."""

    metric: str
    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Interval:
    """One row of the picture. Places are 0 to 1000."""

    metric: str
    label: str
    model_name: str
    difference: str
    bounds: str
    verdict: str
    css: str
    icon: str
    low: float
    middle: float
    high: float
    wins: int
    losses: int
    ties: int

    @property
    def path(self) -> str:
        """The line with its two ends, as the `d` of an SVG path."""
        ends = f"M{self.low:.1f} 12V28M{self.high:.1f} 12V28"
        return f"M{self.low:.1f} 20H{self.high:.1f}{ends}"

    @property
    def dot(self) -> str:
        return f"M{self.middle:.1f} 20h0.01"


@dataclass(frozen=True)
class Picture:
    """Rows that share a scale."""

    title: str
    zero: float
    ticks: list[str]
    rows: list[Interval]


def figures(evaluation: Evaluation) -> list[Figure]:
    """The means of all models, metric by metric; exact match, then fields, then the others."""
    by_model = [evaluation.results.get(name, {}) for name in evaluation.model_names]
    names = list(dict.fromkeys(name for each in by_model for name in _means(each)))
    names.sort(key=lambda name: (name != "exact_match", name != "valid_json", name))
    found = []
    for metric in names:
        unit = unit_of(evaluation, metric)
        cells = []
        for model_name, each in zip(evaluation.model_names, by_model, strict=True):
            value = _means(each).get(metric)
            seen = evaluation.comparisons.get(model_name, {}).get(metric)
            cells.append(_cell(model_name, value, seen, unit))
        found.append(Figure(metric, label_of(metric), cells))
    return found


def pictures(evaluation: Evaluation) -> list[Picture]:
    """Every candidate against the baseline, one picture for each unit."""
    rows: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for model_name in evaluation.model_names[1:]:
        for metric, seen in sorted(evaluation.comparisons.get(model_name, {}).items()):
            rows.setdefault(unit_of(evaluation, metric), []).append((model_name, metric, seen))
    titles = {
        "share": _("Difference in percentage points"),
        "rating": _("Difference in rating, 1 to 5"),
        "number": _("Difference, as measured"),
    }
    return [_picture(titles[unit], unit, rows[unit]) for unit in titles if unit in rows]


def label_of(metric: str) -> str:
    """A metric's name as people read it."""
    if metric.startswith("field."):
        return _("Field %(name)s") % {"name": metric.removeprefix("field.")}
    known = {
        "exact_match": _("Exact match"),
        "valid_json": _("Valid JSON"),
        "json_fields": _("JSON fields, mean"),
        "rouge_1": "ROUGE-1",
        "rouge_2": "ROUGE-2",
        "rouge_l": "ROUGE-L",
        "bleu": "BLEU",
        "chrf": "chrF",
        "judge": _("Judge"),
        "contains": _("Contains the expected"),
        "numeric": _("Number"),
        "regex": _("Pattern"),
        "loss": _("Loss, nats a token"),
        "perplexity": _("Perplexity"),
        "bits_per_byte": _("Bits a byte"),
    }
    return known.get(metric, metric)


def unit_of(evaluation: Evaluation, metric: str) -> str:
    """share, rating or number."""
    return measures.find(evaluation.metrics, [metric])[metric].unit


def amount(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.2f}"


def _means(result: Mapping[str, Any]) -> dict[str, float]:
    """Of an older result too, which had no list of all."""
    if "metrics" in result:
        return dict(result["metrics"])
    means = {name: result[name] for name in ("exact_match", "valid_json") if name in result}
    means |= {f"field.{name}": share for name, share in result.get("fields", {}).items()}
    return {name: value for name, value in means.items() if value is not None}


def _cell(model_name: str, value: float | None, seen: Mapping[str, Any] | None, unit: str) -> Cell:
    if seen is None:
        return Cell(amount(value, unit), model_name)
    css, _icon = LOOKS[seen["verdict"]]
    return Cell(
        amount(value, unit),
        model_name,
        lead=_signed(seen["difference"], unit),
        verdict=str(VERDICTS[seen["verdict"]]),
        css=css,
    )


def _picture(title: str, unit: str, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Picture:
    scale = 100.0 if unit == "share" else 1.0
    ends = [scale * seen[end] for _name, _metric, seen in rows for end in ("low", "high")]
    ticks = charts.nice_ticks(min([*ends, 0.0]), max([*ends, 0.0]), 4)
    first, last = ticks[0], ticks[-1]

    def place(value: float) -> float:
        return WIDTH * (scale * value - first) / (last - first)

    drawn = []
    for model_name, metric, seen in rows:
        css, icon = LOOKS[seen["verdict"]]
        drawn.append(
            Interval(
                metric=metric,
                label=label_of(metric),
                model_name=model_name,
                difference=_signed(seen["difference"], unit),
                bounds=_("%(low)s to %(high)s")
                % {"low": _signed(seen["low"], unit), "high": _signed(seen["high"], unit)},
                verdict=str(VERDICTS[seen["verdict"]]),
                css=css,
                icon=icon,
                low=place(seen["low"]),
                middle=place(seen["difference"]),
                high=place(seen["high"]),
                wins=seen["wins"],
                losses=seen["losses"],
                ties=seen["ties"],
            )
        )
    return Picture(title, place(0.0), [charts.short_number(tick) for tick in ticks], drawn)


def _signed(value: float, unit: str) -> str:
    text = f"{100 * value:+.1f}" if unit == "share" else f"{value:+.2f}"
    return text.replace("-", "\u2212")
